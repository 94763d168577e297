"""What the loop reads: token ids and label ids of a split, and the outputs of a frozen encoder, computed once."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from nlptl.config import to_json
from nlptl.data.batches import collate
from nlptl.data.sources import Examples
from nlptl.data.tokens import Tokens, concatenate, describe_truncation
from nlptl.errors import ConfigError, DataError
from nlptl.model.classifier import Classifier
from nlptl.model.inference import evaluating, map_texts
from nlptl.training.run import Run, sha256_of

logger = logging.getLogger(__name__)

CPU_TOKENS, ACCELERATOR_TOKENS = 512, 16384
ROWS_PER_CALL = 4096


@dataclass(frozen=True)
class Inputs:
    """A split, ready to be trained on: token ids, label ids, and what the head reads if that never changes."""

    examples: Examples
    tokens: Tokens
    labels: np.ndarray
    features: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: np.ndarray, *, pad_id: int, device: torch.device
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the arguments of the classifier's forward, and label ids [len(indices)]."""
        labels = torch.from_numpy(self.labels[indices]).to(device)
        if self.features is not None:
            return {"features": self.features[torch.from_numpy(indices).to(device)]}, labels
        return collate(self.tokens, indices, pad_id=pad_id, device=device), labels


def prepare_inputs(model: Classifier, examples: Examples, run: Run | None) -> Inputs:
    """Tokenize a split, and say what was cut off.

    Raises:
        DataError: If the split is empty or has no labels, or if a label is unknown to the model.
    """
    if not examples.texts or len(examples.labels) != len(examples.texts):
        raise DataError(
            f"Expected one example or more, each with its label, in {examples.source} ({examples.split}), found "
            f"{len(examples.texts)} texts and {len(examples.labels)} labels. Pass a split that has them."
        )
    labels = model.labels.ids(examples.labels)
    tokens = model.tokenize(examples.texts)
    logger.info(describe_truncation(tokens, name=examples.split, max_length=model.max_length))
    if run is not None:
        run.record_truncation(examples.split, tokens.truncation())
    return Inputs(examples, tokens, labels, features=None)


def encode_once(model: Classifier, inputs: Inputs, accelerator: Accelerator) -> Inputs:
    """Return `inputs` with what the head reads, computed once, if the encoder is frozen; else as they are."""
    if not model.encoder_is_frozen:
        return inputs
    split = inputs.examples.split
    logger.info("%s: running the frozen encoder once over %s texts", split, f"{len(inputs):,}")
    features = _gather(model.features, model, inputs.tokens, accelerator, progress=f"encoding {split}")
    return replace(inputs, features=features)


def token_budget(inputs: Inputs, wanted: int | None, device: torch.device) -> int:
    """Return how many tokens a micro-batch may have; `wanted` None: by the device.

    Raises:
        ConfigError: If an example of `inputs` is longer than `wanted`.
    """
    if wanted is None:
        return CPU_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS
    longest = int(inputs.tokens.lengths.argmax())
    length = int(inputs.tokens.lengths[longest])
    if wanted < length:
        raise ConfigError(
            f"Expected micro_batch_tokens to hold the longest example, {length} tokens ({inputs.examples.split}, "
            f"row {inputs.examples.rows[longest]}), found {wanted}. Raise --micro-batch-tokens to {length} or "
            f"more, lower --max-length to {wanted}, or leave --micro-batch-tokens unset."
        )
    return wanted


def logits_of(model: Classifier, inputs: Inputs, accelerator: Accelerator) -> torch.Tensor:
    """Return the logits [examples, labels] of a split on the CPU, on every process, each text computed once."""
    if inputs.features is None:
        return _gather(model, model, inputs.tokens, accelerator, progress=None).cpu()
    with evaluating(model):
        return torch.cat([model(features=part) for part in inputs.features.split(ROWS_PER_CALL)]).cpu()


def facts(model: Classifier, train: Inputs, validation: Inputs | None, *, seed: int, **derived: Any) -> dict[str, Any]:
    """Return what identifies a training: seed, hashes of data, splits and encoder, the model's and derived settings."""
    parts = [part for part in (train, validation) if part is not None]
    texts = {p.examples.split: concatenate([*p.examples.texts, *p.examples.labels]) for p in parts}
    rows = {p.examples.split: np.array(p.examples.rows, dtype=np.int64).tobytes() for p in parts}
    encoder = {
        name: p.detach().cpu().contiguous().numpy().data for name, p in model.network.base_model.named_parameters()
    }
    return {
        "seed": seed,
        "data_sha256": sha256_of(texts),
        "splits_sha256": sha256_of(rows),
        "encoder": model.source,
        "encoder_sha256": sha256_of(encoder),
        "labels": list(model.labels.names),
        "freeze": model.frozen,
        "max_length": model.max_length,
        **to_json(model.head),
        **derived,
    }


def _gather(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    model: Classifier,
    tokens: Tokens,
    accelerator: Accelerator,
    *,
    progress: str | None,
) -> torch.Tensor:
    with evaluating(model), accelerator.autocast():
        results, counts = map_texts(
            function,
            tokens,
            pad_id=model.pad_id,
            device=accelerator.device,
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
            progress=progress if accelerator.is_main_process else None,
        )
    if results.dtype in (torch.float16, torch.bfloat16):
        results = results.float()
    counts = accelerator.reduce(counts, "sum")
    assert bool((counts == 1).all()), "every text is computed exactly once"
    total: torch.Tensor = accelerator.reduce(results, "sum")
    return total
