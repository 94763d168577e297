"""The inputs of training: token ids and targets of a split, or features of a frozen encoder in place of the ids."""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.utils.rnn import pad_sequence

from nlptl.config import to_json
from nlptl.data.batches import collate
from nlptl.data.sources import Examples
from nlptl.data.texts import Concatenation
from nlptl.data.tokens import Tokens, describe_truncation
from nlptl.errors import ConfigError, DataError
from nlptl.model.classifier import Classifier
from nlptl.model.inference import evaluating, map_rows
from nlptl.training.cache import FeatureCache
from nlptl.training.run import Run, sha256_of
from nlptl.training.token_cache import tokenize_once

logger = logging.getLogger(__name__)

CPU_MICRO_BATCH, CPU_PADDED_MICRO_BATCH, ACCELERATOR_MICRO_BATCH = 2048, 512, 16384
"""Default of micro_batch_tokens. On a CPU with padding it is smaller, since smaller micro-batches have less padding."""
ROWS_PER_CALL = 4096


@dataclass(frozen=True)
class HiddenStates:
    """Output of the lowest `depth` layers for each token of a split; text i has `rows[offsets[i]:offsets[i + 1]]`."""

    depth: int
    rows: torch.Tensor  # [tokens, width], float32 or float16, in memory or mapped from a file
    offsets: np.ndarray

    def batch(self, indices: np.ndarray, *, device: torch.device) -> torch.Tensor:
        """Return the hidden states of texts, float32 [len(indices), longest text, width], padded with zeros."""
        texts = [self.rows[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        return pad_sequence(texts, batch_first=True).to(device).float()


@dataclass(frozen=True)
class Inputs:
    """A split, ready for training: token ids and targets, and what is computed only once from the ids, if anything.

    Either the features that the head reads [texts, width], or hidden states above the lowest frozen layers.
    """

    examples: Examples
    tokens: Tokens
    targets: np.ndarray
    features: torch.Tensor | None = None
    hidden: HiddenStates | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def sha256(self) -> str:
        """Hash of the texts and their token ids."""
        tokens = self.tokens
        texts = Concatenation(self.examples.texts, self.examples.pairs)
        types = b"" if tokens.types is None else tokens.types.data
        return sha256_of({"texts": texts, "ids": tokens.ids.data, "offsets": tokens.offsets.data, "types": types})

    def batch(self, indices: np.ndarray, *, pad_id: int, device: torch.device) -> dict[str, Any]:
        """Return token ids, and hidden states if there are any, as arguments of the classifier's forward pass."""
        batch: dict[str, Any] = collate(self.tokens, indices, pad_id=pad_id, device=device)
        if self.hidden is not None:
            batch |= {"hidden": self.hidden.batch(indices, device=device), "depth": self.hidden.depth}
        return batch


def prepare_inputs(
    model: Classifier, examples: Examples, run: Run | None, *, cache: FeatureCache | None = None
) -> Inputs:
    """Tokenize a split, or read its token ids from the cache, and log how much was cut off.

    Raises:
        DataError: If the split is empty, has no labels, or has a label that the model does not know.
    """
    if not examples.texts or len(examples.labels) != len(examples.texts):
        raise DataError(
            f"{examples.source} ({examples.split}) has {len(examples.texts)} texts and {len(examples.labels)} labels. "
            "Pass a split with at least one example and a label for each."
        )
    targets = model.task.targets(examples)
    tokens = tokenize_once(model, examples, cache)
    logger.info(describe_truncation(tokens, model.reading, name=examples.split))
    if run is not None:
        run.record_truncation(examples.split, tokens.truncation())
    return Inputs(examples, tokens, targets)


def token_budget(inputs: Inputs, wanted: int | None, device: torch.device, *, padding_free: bool) -> int:
    """Return the size of micro-batches in tokens: `wanted`, by default chosen by the device and the use of padding.

    Raises:
        ConfigError: If an example of `inputs` is longer than `wanted`.
    """
    if wanted is None:
        on_cpu = CPU_MICRO_BATCH if padding_free else CPU_PADDED_MICRO_BATCH
        return on_cpu if device.type == "cpu" else ACCELERATOR_MICRO_BATCH
    longest = int(inputs.tokens.lengths.argmax())
    length = int(inputs.tokens.lengths[longest])
    if wanted < length:
        raise ConfigError(
            f"micro_batch_tokens is {wanted}, but the longest example has {length} tokens ({inputs.examples.split}, "
            f"row {inputs.examples.rows[longest]}). Raise --micro-batch-tokens to {length} or more, lower --max-length "
            f"to {wanted} (or max_chunks, if texts are read in chunks), or leave --micro-batch-tokens unset."
        )
    return wanted


def logits_of(model: Classifier, inputs: Inputs, accelerator: Accelerator) -> torch.Tensor:
    """Return the logits [examples, labels] of a split on the CPU, on every process; each text is computed once.

    For tags of words they are [words, labels], text after text.
    """
    device = accelerator.device
    if inputs.features is not None:
        with evaluating(model):
            logits = torch.cat([model(features=part) for part in inputs.features.split(ROWS_PER_CALL)])
        check_each_once(np.arange(len(logits)), inputs)
        return logits.cpu()
    with evaluating(model), accelerator.autocast():
        results, counts = map_rows(
            lambda rows: model(**inputs.batch(rows, pad_id=model.pad_id, device=device)),
            inputs.tokens.lengths,
            device=device,
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
            offsets=inputs.tokens.offsets if model.task.is_per_token else None,
        )
    if results.dtype in (torch.float16, torch.bfloat16):
        results = results.float()
    counts = accelerator.reduce(counts, "sum")
    check_each_once(np.repeat(np.arange(len(counts)), counts.cpu().numpy()), inputs)
    total: torch.Tensor = accelerator.reduce(results, "sum")
    return model.task.by_word(total.cpu(), inputs.tokens, inputs.examples.texts)


def check_each_once(indices: np.ndarray, inputs: Inputs) -> None:
    """Check that the examples that all processes have computed are those of the split, each of them once.

    Raises:
        RuntimeError: If one is missing or repeated, so that scores and predictions would be wrong.
    """
    counts = np.bincount(indices, minlength=len(inputs))
    wrong = np.flatnonzero(counts != (np.arange(len(counts)) < len(inputs)))
    if len(wrong):
        first = int(wrong[0])
        row = f"row {inputs.examples.rows[first]}" if first < len(inputs) else f"unknown index {first}"
        raise RuntimeError(
            f"Expected each of the {len(inputs):,} examples of {inputs.examples.source} ({inputs.examples.split}) "
            f"exactly once, found {row} {counts[first]} times and {len(wrong) - 1:,} more such errors. Nothing was "
            "scored. This is a bug in nlptl, not in the data: please report it."
        )


def encoder_sha256(model: Classifier) -> str:
    """Return a hash of the weights of the encoder that the logits depend on, with their names."""
    prefix = model.network.base_model_prefix + "."
    used = {
        name.removeprefix(prefix): parameter
        for name, parameter in model.network.named_parameters()
        if name.startswith(prefix) and name not in model.unused_names
    }
    return sha256_of({name: p.detach().cpu().contiguous().numpy().data for name, p in used.items()})


def facts(
    model: Classifier, train: Inputs, validation: Inputs | None, *, seed: int, encoder_sha256: str, **derived: Any
) -> dict[str, Any]:
    """Return what identifies a training: seed, hashes of data, splits and encoder, settings and derived settings."""
    examples = [part.examples for part in (train, validation) if part is not None]
    texts = {each.split: Concatenation(each.texts, each.pairs, each.labels) for each in examples}
    rows = {each.split: np.asarray(each.rows, dtype=np.int64).data for each in examples}
    return {
        "seed": seed,
        "data_sha256": sha256_of(texts),
        "splits_sha256": sha256_of(rows),
        "encoder": model.source,
        "encoder_sha256": encoder_sha256,
        "task": model.task.kind,
        "labels": list(model.task.names),
        **model.reading.in_use,
        **to_json(model.transfer),
        **to_json(model.head),
        **derived,
    }
