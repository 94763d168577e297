"""Run a frozen encoder once over a split, in parts that are cached on disk for later and interrupted runs.

The last bits of features depend on the batch they are computed in. Parts and micro-batches therefore depend only on the
lengths of the texts and the type of device, and a split has one key: a run gives the same bytes whatever is in the
cache, and however many processes filled it.
"""

import json
import logging
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class FrozenEncoder:
    """Computes the features of splits once, if they never change while the head trains.

    Every process must call every method, and does its share; only the main process reads and writes the cache.
    """

    model: Classifier
    accelerator: Accelerator
    cache: FeatureCache | None
    """Features of earlier runs, to which new ones are added. None: no cache."""
    sha256: str
    """Result of `inputs.encoder_sha256` for the model."""

    def encode(self, inputs: Inputs) -> Inputs:
        """Return `inputs` with the features that the head reads, if these never change; otherwise unchanged."""
        model, accelerator, cache = self.model, self.accelerator, self.cache
        if not model.features_are_constant:
            return inputs
        parts = self._cut(inputs.tokens)
        rows = [np.concatenate(part) for part in parts]
        check_each_once(np.concatenate(rows), inputs)
        key = self.key(inputs)
        files = set() if cache is None else cache.parts(key)
        # Only the main process sees the cache.
        is_cached = broadcast(torch.tensor([i in files for i in range(len(parts))], device=accelerator.device)).tolist()
        if cache is None or not cache.has_used(key):
            self._log_source(inputs, rows, is_cached)
        whole = None
        missing = [part for i, part in enumerate(parts) if not is_cached[i]]
        share = sum(len(part[accelerator.process_index :: accelerator.num_processes]) for part in missing)
        with (
            evaluating(model),
            accelerator.autocast(),
            progress_bar(name=f"encoding {inputs.examples.split}", total=share) as bar,
        ):
            for i, part in enumerate(parts):
                features = self._read(key, i, len(rows[i])) if is_cached[i] else None
                if features is None:
                    features = self._compute(inputs.tokens, part, bar)
                    self._write(key, i, features, inputs)
                if whole is None:
                    whole = self._allocate(len(inputs), features.shape[1])
                # In a file that the processes of a machine share, all of them write the same values.
                whole[torch.from_numpy(rows[i]).to(whole.device)] = features
        if cache is not None:
            on_main(lambda: cache.finish(key))
        accelerator.wait_for_everyone()
        return replace(inputs, features=whole)

    def has(self, inputs: Inputs) -> bool:
        """Return whether the cache has a file for every part of a split. No file is read."""
        return self.cache is not None and len(self.cache.parts(self.key(inputs))) >= len(self._cut(inputs.tokens))

    def key(self, inputs: Inputs) -> str:
        """Return a hash of everything that the features depend on; labels, head and seed are not part of it."""
        model, network, device = self.model, self.model.network, self.accelerator.device
        config = network.base_model.config
        settings = {
            "format": FORMAT,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "encoder": self.sha256,
            "config": {k: v for k, v in config.to_dict().items() if k not in NOT_OF_THE_ENCODER and "dropout" not in k},
            "attention": config._attn_implementation,
            "max_length": model.max_length,
            "pooling": model.head.pooling,
            "layers": model.head.layers,
            "dtype": str(network.dtype),
            "mixed_precision": self.accelerator.mixed_precision,
            "matmul_precision": torch.get_float32_matmul_precision(),
            "device": device.type,
            "onednn": model.is_quick and prefers_onednn(),
            "micro_batch_tokens": tokens_at_once(device),
        }
        if model.reading.in_chunks:
            settings["chunk_pooling"] = model.head.chunk_pooling
        return sha256_of(
            {
                "settings": json.dumps(settings, sort_keys=True, default=str).encode(),
                "tokenizer": tokenizer_bytes(model),
                "inputs": inputs.sha256.encode(),
            }
        )

    @property
    def _dtype(self) -> str:
        """Type of the features: float64 if the encoder has that type, else float32."""
        return "float64" if self.model.network.dtype == torch.float64 else "float32"

    def _cut(self, tokens: Tokens) -> list[list[np.ndarray]]:
        """Return the rows of a split, longest text first, as parts that consist of micro-batches."""
        max_tokens = tokens_at_once(self.accelerator.device)
        batches = micro_batches(np.arange(len(tokens)), tokens.lengths, max_tokens=max_tokens)
        return [batches[i : i + MICRO_BATCHES_PER_PART] for i in range(0, len(batches), MICRO_BATCHES_PER_PART)]

    def _read(self, key: str, i: int, num_texts: int) -> torch.Tensor | None:
        """Return a part from the cache on every process; None if it is missing or damaged."""
        found: list[np.ndarray] = []

        def read() -> bool:
            assert self.cache is not None
            features = self.cache.read(key, i, shape=(num_texts, None), dtype=self._dtype)
            found.extend([] if features is None else [features])
            return bool(found)

        if not on_main(read):
            return None
        device = self.accelerator.device
        here = torch.from_numpy(found[0].copy()) if found else None  # a mapped file is read-only
        width = int(broadcast(torch.tensor(0 if here is None else here.shape[1], device=device)))
        sent = torch.empty(num_texts, width, dtype=getattr(torch, self._dtype)) if here is None else here
        features: torch.Tensor = broadcast(sent.to(device))
        return features

    def _write(self, key: str, i: int, features: torch.Tensor, inputs: Inputs) -> None:
        if self.cache is not None:
            about = {"encoder": self.model.source, "split": inputs.examples.split, "texts": len(inputs)}
            about |= {"pooling": self.model.head.pooling, "width": features.shape[1]}
            on_main(partial(self.cache.write, key, {i: [features.cpu().numpy()]}, about=about))

    def _allocate(self, num_texts: int, width: int) -> torch.Tensor:
        """Return an empty tensor for the features of a split, on the device; if it is large and on a CPU, in a file."""
        device, dtype = self.accelerator.device, getattr(torch, self._dtype)
        num_bytes = num_texts * width * dtype.itemsize
        if device.type == "cpu" and num_bytes > LARGE_BYTES:
            folder = cache_folder()
            mapped = map_new_file((num_texts, width), self._dtype, self.accelerator, folder)
            if mapped is not None:
                return mapped
            logger.warning("keeping %.0f MB of features in memory: there is no space in %s", num_bytes / 1e6, folder)
        return torch.empty((num_texts, width), dtype=dtype, device=device)

    def _log_source(self, inputs: Inputs, rows: list[np.ndarray], is_cached: list[bool]) -> None:
        split, num_texts = inputs.examples.split, len(inputs)
        num_cached = sum(len(part) for part, is_there in zip(rows, is_cached, strict=True) if is_there)
        if num_cached and self.cache is not None:
            which = f"{num_texts:,}" if num_cached == num_texts else f"{num_cached:,} of {num_texts:,}"
            logger.info("%s: features of %s texts from the cache in %s", split, which, self.cache.folder)
        if num_cached < num_texts:
            which = f"the other {num_texts - num_cached:,}" if num_cached else f"{num_texts:,}"
            logger.info("%s: running the frozen encoder once over %s texts", split, which)

    def _compute(self, tokens: Tokens, part: list[np.ndarray], bar: Any) -> torch.Tensor:
        """Return on every process the features of a part [texts, width]; each process computes its share of them."""
        model, accelerator = self.model, self.accelerator

        def encode(rows: np.ndarray) -> torch.Tensor:
            batch = collate(tokens, rows, pad_id=model.pad_id, device=accelerator.device)
            return model.features(**batch).to(getattr(torch, self._dtype))

        share = {}
        for i in range(accelerator.process_index, len(part), accelerator.num_processes):
            share[i] = torch.cat(in_halves(encode, part[i]))
            bar.update()
        # A process without texts of its own encodes one to learn the width.
        sample = share[accelerator.process_index] if share else encode(part[-1][:1])
        whole = [share[i] if i in share else sample.new_zeros(len(r), sample.shape[1]) for i, r in enumerate(part)]
        total: torch.Tensor = accelerator.reduce(torch.cat(whole), "sum")
        return total
