"""Runs a frozen encoder once over a split, in parts that are kept on disk for later runs and interrupted ones.

The cut into parts and micro-batches depends on the lengths of the texts and the kind of device alone, and keys are per
split, since features depend in their last bits on the batch they are computed in: a run gives the same bytes whatever
is in the cache, and however many processes have filled it.
"""

import json
import logging
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast
from tqdm import tqdm

from nlptl.data.batches import collate, micro_batches
from nlptl.data.texts import concatenate
from nlptl.data.tokens import Tokens
from nlptl.model.classifier import Classifier
from nlptl.model.inference import ACCELERATOR_TOKENS, CPU_TOKENS, evaluating, prefers_onednn, quick_linears
from nlptl.training.cache import FeatureCache
from nlptl.training.devices import on_main
from nlptl.training.inputs import Inputs, check_each_once
from nlptl.training.run import sha256_of

logger = logging.getLogger(__name__)

FORMAT = 1
"""Goes up when the same key would stand for other features."""

MICRO_BATCHES_PER_PART = 32
"""What is lost at most when encoding is interrupted: some seconds of work, a minute with a large encoder on a CPU."""

NOT_OF_THE_ENCODER = (
    "_name_or_path",
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "transformers_version",
)
"""Keys of an encoder's configuration that say where it came from and what is put on it, as those of dropouts do."""

Parts = list[list[np.ndarray]]


def encode_once(
    model: Classifier, inputs: Inputs, accelerator: Accelerator, *, cache: FeatureCache | None, encoder_sha256: str
) -> Inputs:
    """Return `inputs` with what the head reads, computed once, if that never changes; else as they are.

    Every process has to call this; the main process alone reads and writes the cache.

    Args:
        model: The classifier.
        inputs: A split.
        accelerator: The device and the processes, which share the work.
        cache: Where features of earlier runs are, and these are kept. None: in memory alone.
        encoder_sha256: What `inputs.encoder_sha256` returns for the model.
    """
    if not model.features_are_constant:
        return inputs
    parts = _cut(inputs.tokens, accelerator.device)
    key = feature_key(model, inputs, accelerator, encoder_sha256=encoder_sha256)
    cached = _read(cache, key, parts, dtype=_dtype(model))
    widths = _tell_widths(cached, len(parts), accelerator.device)
    if cache is None or not cache.has_used(key):
        _log_source(inputs, parts, widths, cache)
    features = []
    with (
        evaluating(model),
        quick_linears(model),
        accelerator.autocast(),
        _bar(inputs, parts, widths, accelerator) as bar,
    ):
        for i, part in enumerate(parts):
            if widths[i]:
                shape = (sum(map(len, part)), widths[i])
                features.append(_send(cached.pop(i, None), shape, dtype=_dtype(model), device=accelerator.device))
            else:
                features.append(_encode(model, inputs.tokens, part, accelerator, bar))
                _keep(cache, key, i, features[-1], model, inputs)
    if cache is not None:
        on_main(lambda: cache.finish(key))
    rows = np.concatenate([rows for part in parts for rows in part])
    check_each_once(rows, inputs)
    places = torch.from_numpy(np.argsort(rows)).to(accelerator.device)
    return replace(inputs, features=torch.cat(features)[places])


def is_encoded(
    model: Classifier, inputs: Inputs, accelerator: Accelerator, *, cache: FeatureCache | None, encoder_sha256: str
) -> bool:
    """Return whether the cache has a file for all that `encode_once` would compute; none is read."""
    if cache is None:
        return False
    key = feature_key(model, inputs, accelerator, encoder_sha256=encoder_sha256)
    return cache.num_parts(key) >= len(_cut(inputs.tokens, accelerator.device))


def feature_key(model: Classifier, inputs: Inputs, accelerator: Accelerator, *, encoder_sha256: str) -> str:
    """Return the hash of all that the features of a split depend on: not labels, head or seed, nor when or where."""
    network, tokens = model.network, inputs.tokens
    config = network.base_model.config
    settings = {
        "format": FORMAT,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "encoder": encoder_sha256,
        "config": {k: v for k, v in config.to_dict().items() if k not in NOT_OF_THE_ENCODER and "dropout" not in k},
        "attention": config._attn_implementation,
        "max_length": model.max_length,
        "pooling": model.head.pooling,
        "layers": model.head.layers,
        "dtype": str(network.dtype),
        "mixed_precision": accelerator.mixed_precision,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "device": accelerator.device.type,
        "onednn": prefers_onednn(),
        "micro_batch_tokens": _micro_batch_tokens(accelerator.device),
    }
    return sha256_of(
        {
            "settings": json.dumps(settings, sort_keys=True, default=str).encode(),
            "tokenizer": model.tokenizer.backend_tokenizer.to_str().encode(),
            "texts": concatenate(inputs.examples.texts),
            "ids": tokens.ids.data,
            "offsets": tokens.offsets.data,
        }
    )


def _micro_batch_tokens(device: torch.device) -> int:
    return CPU_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS


def _cut(tokens: Tokens, device: torch.device) -> Parts:
    """Return the rows of a split, longest text first, as micro-batches, and those as parts of an entry."""
    max_tokens = _micro_batch_tokens(device)
    batches = micro_batches(np.arange(len(tokens)), tokens.lengths, max_tokens=max_tokens)
    return [batches[i : i + MICRO_BATCHES_PER_PART] for i in range(0, len(batches), MICRO_BATCHES_PER_PART)]


def _dtype(model: Classifier) -> torch.dtype:
    """Return the type of features: float32 for every encoder that computes in that or less."""
    return torch.float64 if model.network.dtype == torch.float64 else torch.float32


def _read(cache: FeatureCache | None, key: str, parts: Parts, *, dtype: torch.dtype) -> dict[int, np.ndarray]:
    """Return the parts that the cache holds, by number; on other processes than the main one, nothing."""
    found: dict[int, np.ndarray] = {}

    def read() -> None:
        assert cache is not None
        for i, part in enumerate(parts):
            features = cache.read(key, i, num_texts=sum(map(len, part)), dtype=str(dtype).removeprefix("torch."))
            if features is not None:
                found[i] = features

    if cache is not None:
        on_main(read)
    return found


def _keep(
    cache: FeatureCache | None, key: str, i: int, features: torch.Tensor, model: Classifier, inputs: Inputs
) -> None:
    about = {"encoder": model.source, "split": inputs.examples.split, "texts": len(inputs)}
    if cache is not None:
        on_main(lambda: cache.write(key, i, features.cpu().numpy(), about={**about, "pooling": model.head.pooling}))


def _tell_widths(cached: dict[int, np.ndarray], num_parts: int, device: torch.device) -> list[int]:
    """Return on every process the width of each part that the main process has read; 0: it has not."""
    widths = [cached[i].shape[1] if i in cached else 0 for i in range(num_parts)]
    told: list[int] = broadcast(torch.tensor(widths, device=device)).tolist()
    return told


def _send(
    features: np.ndarray | None, shape: tuple[int, int], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return on every process the features that the main process has read."""
    here = torch.empty(shape, dtype=dtype) if features is None else torch.from_numpy(features)
    sent: torch.Tensor = broadcast(here.to(device))
    return sent


def _log_source(inputs: Inputs, parts: Parts, widths: list[int], cache: FeatureCache | None) -> None:
    split, num_texts = inputs.examples.split, len(inputs)
    num_cached = sum(len(rows) for part, width in zip(parts, widths, strict=True) if width for rows in part)
    if num_cached and cache is not None:
        which = f"{num_texts:,}" if num_cached == num_texts else f"{num_cached:,} of {num_texts:,}"
        logger.info("%s: features of %s texts from the cache in %s", split, which, cache.folder)
    if num_cached < num_texts:
        which = f"the other {num_texts - num_cached:,}" if num_cached else f"{num_texts:,}"
        logger.info("%s: running the frozen encoder once over %s texts", split, which)


def _bar(inputs: Inputs, parts: Parts, widths: list[int], accelerator: Accelerator) -> Any:
    """Return the progress bar of this process's micro-batches, shown on the main process where there is a terminal."""
    missing = [part for part, width in zip(parts, widths, strict=True) if not width]
    total = sum(len(part[accelerator.process_index :: accelerator.num_processes]) for part in missing)
    is_silent = not (total and accelerator.is_main_process and sys.stderr.isatty())
    return tqdm(total=total, desc=f"encoding {inputs.examples.split}", disable=is_silent, leave=False)


def _encode(
    model: Classifier, tokens: Tokens, part: list[np.ndarray], accelerator: Accelerator, bar: Any
) -> torch.Tensor:
    """Return on every process the features of a part [texts, width], of which each process computes its share."""

    def encode(rows: np.ndarray) -> torch.Tensor:
        batch = collate(tokens, rows, pad_id=model.pad_id, device=accelerator.device)
        return model.features(batch["input_ids"], batch["attention_mask"]).to(_dtype(model))

    share = {}
    for i in range(accelerator.process_index, len(part), accelerator.num_processes):
        share[i] = encode(part[i])
        bar.update()
    # One text tells the width to a process that has none of its own.
    sample = share[accelerator.process_index] if share else encode(part[-1][:1])
    whole = [share[i] if i in share else sample.new_zeros(len(rows), sample.shape[1]) for i, rows in enumerate(part)]
    total: torch.Tensor = accelerator.reduce(torch.cat(whole), "sum")
    return total
