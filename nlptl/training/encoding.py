"""Runs a frozen encoder once over a split, in parts that are kept on disk for later runs and interrupted ones.

The cut into parts and micro-batches depends on the lengths of the texts and the kind of device alone, and keys are per
split, since features depend in their last bits on the batch they are computed in: a run gives the same bytes whatever
is in the cache, and however many processes have filled it.
"""

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast

from nlptl.data.batches import collate, micro_batches
from nlptl.data.texts import cache_folder
from nlptl.data.tokens import Tokens
from nlptl.model.classifier import Classifier
from nlptl.model.inference import evaluating, in_halves, tokens_at_once
from nlptl.model.quick import prefers_onednn
from nlptl.progress import progress_bar
from nlptl.training.cache import FeatureCache
from nlptl.training.devices import on_main
from nlptl.training.inputs import Inputs, check_each_once
from nlptl.training.mapped import map_new_file
from nlptl.training.run import sha256_of
from nlptl.training.token_cache import tokenizer_bytes

logger = logging.getLogger(__name__)

FORMAT = 3
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

LARGE_BYTES = 2**26
"""Features on a CPU that take more than this go into a file."""

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
    rows = [np.concatenate(part) for part in parts]
    check_each_once(np.concatenate(rows), inputs)
    key = feature_key(model, inputs, accelerator, encoder_sha256=encoder_sha256)
    is_cached = _tell_cached(cache, key, len(parts), accelerator.device)
    if cache is None or not cache.has_used(key):
        _log_source(inputs, rows, is_cached, cache)
    whole = None
    with (
        evaluating(model),
        accelerator.autocast(),
        _bar(inputs, parts, is_cached, accelerator) as bar,
    ):
        for i, part in enumerate(parts):
            features = None
            if is_cached[i]:
                features = _read(cache, key, i, len(rows[i]), _dtype(model), accelerator.device)
            if features is None:
                features = _encode(model, inputs.tokens, part, accelerator, bar)
                _keep(cache, key, i, features, model, inputs)
            if whole is None:
                whole = _allocate((len(inputs), features.shape[1]), features.dtype, accelerator)
            # Of a file, which the processes of a machine share, each writes the same.
            whole[torch.from_numpy(rows[i]).to(whole.device)] = features
    if cache is not None:
        on_main(lambda: cache.finish(key))
    accelerator.wait_for_everyone()
    return replace(inputs, features=whole)


def is_encoded(
    model: Classifier, inputs: Inputs, accelerator: Accelerator, *, cache: FeatureCache | None, encoder_sha256: str
) -> bool:
    """Return whether the cache has a file for all that `encode_once` would compute; none is read."""
    if cache is None:
        return False
    key = feature_key(model, inputs, accelerator, encoder_sha256=encoder_sha256)
    return len(cache.parts(key)) >= len(_cut(inputs.tokens, accelerator.device))


def feature_key(model: Classifier, inputs: Inputs, accelerator: Accelerator, *, encoder_sha256: str) -> str:
    """Return the hash of all that the features of a split depend on: not labels, head or seed, nor when or where."""
    network = model.network
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
        "onednn": model.is_quick and prefers_onednn(),
        "micro_batch_tokens": tokens_at_once(accelerator.device),
    }
    if model.reads_chunks:
        settings["chunk_pooling"] = model.head.chunk_pooling
    return sha256_of(
        {
            "settings": json.dumps(settings, sort_keys=True, default=str).encode(),
            "tokenizer": tokenizer_bytes(model),
            "inputs": inputs.sha256.encode(),
        }
    )


def _cut(tokens: Tokens, device: torch.device) -> Parts:
    """Return the rows of a split, longest text first, as micro-batches, and those as parts of an entry."""
    max_tokens = tokens_at_once(device)
    batches = micro_batches(np.arange(len(tokens)), tokens.lengths, max_tokens=max_tokens)
    return [batches[i : i + MICRO_BATCHES_PER_PART] for i in range(0, len(batches), MICRO_BATCHES_PER_PART)]


def _dtype(model: Classifier) -> torch.dtype:
    """Return the type of features: float32 for every encoder that computes in that or less."""
    return torch.float64 if model.network.dtype == torch.float64 else torch.float32


def _tell_cached(cache: FeatureCache | None, key: str, num_parts: int, device: torch.device) -> list[bool]:
    """Return on every process for which parts there is a file on the main one."""
    found = cache.parts(key) if cache is not None else set()
    return broadcast(torch.tensor([i in found for i in range(num_parts)], device=device)).tolist()  # type: ignore[no-any-return]


def _read(
    cache: FeatureCache | None, key: str, i: int, num_texts: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """Return on every process the part that the main one finds in the cache; None: nothing that is whole."""
    found: list[np.ndarray] = []

    def read() -> bool:
        assert cache is not None
        features = cache.read(key, i, shape=(num_texts, None), dtype=str(dtype).removeprefix("torch."))
        found.extend([] if features is None else [features])
        return bool(found)

    if not on_main(read):
        return None
    here = torch.from_numpy(found[0].copy()) if found else None  # what is mapped may not be written to
    width = int(broadcast(torch.tensor(0 if here is None else here.shape[1], device=device)))
    sent: torch.Tensor = broadcast((torch.empty(num_texts, width, dtype=dtype) if here is None else here).to(device))
    return sent


def _keep(
    cache: FeatureCache | None, key: str, i: int, features: torch.Tensor, model: Classifier, inputs: Inputs
) -> None:
    about = {
        "encoder": model.source,
        "split": inputs.examples.split,
        "texts": len(inputs),
        "pooling": model.head.pooling,
        "width": features.shape[1],
    }
    if cache is not None:
        on_main(lambda: cache.write(key, {i: [features.cpu().numpy()]}, about=about))


def _allocate(shape: tuple[int, int], dtype: torch.dtype, accelerator: Accelerator) -> torch.Tensor:
    """Return room for the features of a split: on the device; where that is the CPU and they are many, in a file."""
    num_bytes = shape[0] * shape[1] * dtype.itemsize
    if accelerator.device.type == "cpu" and num_bytes > LARGE_BYTES:
        folder = cache_folder()
        mapped = map_new_file(shape, str(dtype).removeprefix("torch."), accelerator, folder)
        if mapped is not None:
            return mapped
        logger.warning("going on with %.0f MB of features in memory: there is no room in %s", num_bytes / 1e6, folder)
    return torch.empty(shape, dtype=dtype, device=accelerator.device)


def _log_source(inputs: Inputs, rows: list[np.ndarray], is_cached: list[bool], cache: FeatureCache | None) -> None:
    split, num_texts = inputs.examples.split, len(inputs)
    num_cached = sum(len(part) for part, is_there in zip(rows, is_cached, strict=True) if is_there)
    if num_cached and cache is not None:
        which = f"{num_texts:,}" if num_cached == num_texts else f"{num_cached:,} of {num_texts:,}"
        logger.info("%s: features of %s texts from the cache in %s", split, which, cache.folder)
    if num_cached < num_texts:
        which = f"the other {num_texts - num_cached:,}" if num_cached else f"{num_texts:,}"
        logger.info("%s: running the frozen encoder once over %s texts", split, which)


def _bar(inputs: Inputs, parts: Parts, is_cached: list[bool], accelerator: Accelerator) -> Any:
    """Return a progress bar for the micro-batches of this process."""
    missing = [part for part, is_there in zip(parts, is_cached, strict=True) if not is_there]
    total = sum(len(part[accelerator.process_index :: accelerator.num_processes]) for part in missing)
    return progress_bar(name=f"encoding {inputs.examples.split}", total=total)


def _encode(
    model: Classifier, tokens: Tokens, part: list[np.ndarray], accelerator: Accelerator, bar: Any
) -> torch.Tensor:
    """Return on every process the features of a part [texts, width], of which each process computes its share."""

    def encode(rows: np.ndarray) -> torch.Tensor:
        batch = collate(tokens, rows, pad_id=model.pad_id, device=accelerator.device)
        return model.features(**batch).to(_dtype(model))

    share = {}
    for i in range(accelerator.process_index, len(part), accelerator.num_processes):
        share[i] = torch.cat(in_halves(encode, part[i]))
        bar.update()
    # One text tells the width to a process that has none of its own.
    sample = share[accelerator.process_index] if share else encode(part[-1][:1])
    whole = [share[i] if i in share else sample.new_zeros(len(rows), sample.shape[1]) for i, rows in enumerate(part)]
    total: torch.Tensor = accelerator.reduce(torch.cat(whole), "sum")
    return total
