"""Run a frozen encoder once over a split, in parts that are cached on disk for later and interrupted runs.

The last bits of features depend on the batch they are computed in. Parts and micro-batches therefore depend only on the
lengths of the texts and the type of device, and a split has one key: a run gives the same bytes whatever is in the
cache, and however many processes filled it.
"""

import json
import logging
from dataclasses import replace
from functools import partial
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
"""Increased when the same key would mean other features."""

MICRO_BATCHES_PER_PART = 32
"""Largest loss of an interrupted encoding: some seconds of work, a minute with a large encoder on a CPU."""

NOT_OF_THE_ENCODER = (
    "_name_or_path",
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "transformers_version",
)
"""Keys of an encoder's configuration that features do not depend on; nor do they depend on dropout."""

LARGE_BYTES = 2**26
"""Larger features on a CPU are mapped from a file."""

Parts = list[list[np.ndarray]]


def encode_once(
    model: Classifier, inputs: Inputs, accelerator: Accelerator, *, cache: FeatureCache | None, encoder_sha256: str
) -> Inputs:
    """Return `inputs` with the features that the head reads, if these never change; otherwise unchanged.

    Every process must call this; only the main process reads and writes the cache.

    Args:
        model: The classifier.
        inputs: A split.
        accelerator: The device and the processes, which share the work.
        cache: Cache with the features of earlier runs, to which these are added. None: no cache.
        encoder_sha256: Result of `inputs.encoder_sha256` for the model.
    """
    if not model.features_are_constant:
        return inputs
    parts = _cut(inputs.tokens, accelerator.device)
    rows = [np.concatenate(part) for part in parts]
    check_each_once(np.concatenate(rows), inputs)
    key = feature_key(model, inputs, accelerator, encoder_sha256=encoder_sha256)
    files = set() if cache is None else cache.parts(key)
    # Only the main process sees the cache.
    is_cached = broadcast(torch.tensor([i in files for i in range(len(parts))], device=accelerator.device)).tolist()
    if cache is None or not cache.has_used(key):
        _log_source(inputs, rows, is_cached, cache)
    whole = None
    missing = [part for i, part in enumerate(parts) if not is_cached[i]]
    share = sum(len(part[accelerator.process_index :: accelerator.num_processes]) for part in missing)
    with (
        evaluating(model),
        accelerator.autocast(),
        progress_bar(name=f"encoding {inputs.examples.split}", total=share) as bar,
    ):
        for i, part in enumerate(parts):
            features = None
            if is_cached[i]:
                features = _read(cache, key, i, len(rows[i]), _dtype(model), accelerator.device)
            if features is None:
                features = _encode(model, inputs.tokens, part, accelerator, bar)
                if cache is not None:
                    about = {
                        "encoder": model.source,
                        "split": inputs.examples.split,
                        "texts": len(inputs),
                        "pooling": model.head.pooling,
                        "width": features.shape[1],
                    }
                    on_main(partial(cache.write, key, {i: [features.cpu().numpy()]}, about=about))
            if whole is None:
                whole = _allocate((len(inputs), features.shape[1]), features.dtype, accelerator)
            # In a file that the processes of a machine share, all of them write the same values.
            whole[torch.from_numpy(rows[i]).to(whole.device)] = features
    if cache is not None:
        on_main(lambda: cache.finish(key))
    accelerator.wait_for_everyone()
    return replace(inputs, features=whole)


def is_encoded(
    model: Classifier, inputs: Inputs, accelerator: Accelerator, *, cache: FeatureCache | None, encoder_sha256: str
) -> bool:
    """Return whether the cache has a file for every part that `encode_once` needs. No file is read."""
    if cache is None:
        return False
    key = feature_key(model, inputs, accelerator, encoder_sha256=encoder_sha256)
    return len(cache.parts(key)) >= len(_cut(inputs.tokens, accelerator.device))


def feature_key(model: Classifier, inputs: Inputs, accelerator: Accelerator, *, encoder_sha256: str) -> str:
    """Return a hash of everything that the features of a split depend on; labels, head and seed are not part of it."""
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
    """Return the rows of a split, longest text first, as parts that consist of micro-batches."""
    max_tokens = tokens_at_once(device)
    batches = micro_batches(np.arange(len(tokens)), tokens.lengths, max_tokens=max_tokens)
    return [batches[i : i + MICRO_BATCHES_PER_PART] for i in range(0, len(batches), MICRO_BATCHES_PER_PART)]


def _dtype(model: Classifier) -> torch.dtype:
    """Return the type of the features: float64 if the encoder has that type, else float32."""
    return torch.float64 if model.network.dtype == torch.float64 else torch.float32


def _read(
    cache: FeatureCache | None, key: str, i: int, num_texts: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """Return on every process a part that the main process reads from the cache; None if it is missing or damaged."""
    found: list[np.ndarray] = []

    def read() -> bool:
        assert cache is not None
        features = cache.read(key, i, shape=(num_texts, None), dtype=str(dtype).removeprefix("torch."))
        found.extend([] if features is None else [features])
        return bool(found)

    if not on_main(read):
        return None
    here = torch.from_numpy(found[0].copy()) if found else None  # a mapped file is read-only
    width = int(broadcast(torch.tensor(0 if here is None else here.shape[1], device=device)))
    sent: torch.Tensor = broadcast((torch.empty(num_texts, width, dtype=dtype) if here is None else here).to(device))
    return sent


def _allocate(shape: tuple[int, int], dtype: torch.dtype, accelerator: Accelerator) -> torch.Tensor:
    """Return an empty tensor for the features of a split, on the device; if it is large and on a CPU, in a file."""
    num_bytes = shape[0] * shape[1] * dtype.itemsize
    if accelerator.device.type == "cpu" and num_bytes > LARGE_BYTES:
        folder = cache_folder()
        mapped = map_new_file(shape, str(dtype).removeprefix("torch."), accelerator, folder)
        if mapped is not None:
            return mapped
        logger.warning("keeping %.0f MB of features in memory: there is no space in %s", num_bytes / 1e6, folder)
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


def _encode(
    model: Classifier, tokens: Tokens, part: list[np.ndarray], accelerator: Accelerator, bar: Any
) -> torch.Tensor:
    """Return on every process the features of a part [texts, width]; each process computes its share of them."""

    def encode(rows: np.ndarray) -> torch.Tensor:
        batch = collate(tokens, rows, pad_id=model.pad_id, device=accelerator.device)
        return model.features(**batch).to(_dtype(model))

    share = {}
    for i in range(accelerator.process_index, len(part), accelerator.num_processes):
        share[i] = torch.cat(in_halves(encode, part[i]))
        bar.update()
    # A process without texts of its own encodes one to learn the width.
    sample = share[accelerator.process_index] if share else encode(part[-1][:1])
    whole = [share[i] if i in share else sample.new_zeros(len(rows), sample.shape[1]) for i, rows in enumerate(part)]
    total: torch.Tensor = accelerator.reduce(torch.cat(whole), "sum")
    return total
