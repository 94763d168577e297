"""Runs a model over many texts: sorted by length, in batches by tokens, results in the order of the texts."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn

from nlptl.data.batches import micro_batches
from nlptl.progress import progress_bar

T = TypeVar("T")

CPU_TOKENS, ACCELERATOR_TOKENS = 1024, 65536


class ModelLock:
    """A reentrant lock. Copies and pickles of an object that holds one get a lock of their own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["ModelLock"], tuple[()]]:
        return ModelLock, ()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode and compute no gradients. It stays in eval mode: other threads may be predicting."""
    model.eval()
    with torch.no_grad():
        yield


def map_rows(
    function: Callable[[np.ndarray], torch.Tensor],
    lengths: np.ndarray,
    *,
    device: torch.device,
    process: int = 0,
    num_processes: int = 1,
    progress: str | None = None,
    offsets: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply `function(rows) -> [len(rows), width]` to this process's share of the texts, given by their lengths.

    With `offsets`, it returns [len(rows), longest text, width], a row for each token; those of text i come to stand in
    the results from `offsets[i]` on.

    Returns:
        The results [texts, width] in the order of the texts, zero for texts of other processes, or [tokens, width]; and
        how often each text was computed [texts]. Summed over processes, every count is 1.
    """
    num_results = len(lengths) if offsets is None else int(offsets[-1])
    results = torch.zeros(num_results, 0, device=device)
    counts = torch.zeros(len(lengths), dtype=torch.long, device=device)
    share = length_batches(lengths, device=device, process=process, num_processes=num_processes)
    # A process without texts computes one, which tells it the width of the results.
    for rows in progress_bar(share or [np.zeros(1, dtype=np.int64)], name=progress):
        found = in_halves(function, rows)
        if offsets is not None:  # one row for each token, without padding
            texts = [text for part in found for text in part]
            found = [text[:length] for text, length in zip(texts, lengths[rows].tolist(), strict=True)]
        output = torch.cat(found)
        if results.shape[1] == 0:
            results = torch.zeros(num_results, output.shape[1], dtype=output.dtype, device=device)
        if share:
            places = rows if offsets is None else np.concatenate([np.arange(*offsets[j : j + 2]) for j in rows])
            results[torch.from_numpy(places).to(device)] = output
            counts[torch.from_numpy(rows).to(device)] += 1
    return results, counts


def in_halves(function: Callable[[np.ndarray], T], rows: np.ndarray) -> list[T]:
    """Return `[function(rows)]`; on running out of memory, its results for halves of the rows, or halves of those."""
    try:
        return [function(rows)]
    except (RuntimeError, MemoryError) as error:
        if len(rows) == 1 or not is_out_of_memory(error):
            raise
    # Here the error is gone, and with its frames the tensors that they held.
    clear_device_cache(garbage_collection=True)
    return [result for half in np.array_split(rows, 2) for result in in_halves(function, half)]


def is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` says that memory has run out."""
    # The last is what oneDNN says, which gives no reason.
    says_so = should_reduce_batch_size(error) or "could not create a primitive" in str(error)
    return isinstance(error, MemoryError) or says_so


def length_batches(
    lengths: np.ndarray, *, device: torch.device, process: int = 0, num_processes: int = 1
) -> list[np.ndarray]:
    """Return this process's share of the texts in batches of similar length, as many tokens as the device likes."""
    return micro_batches(
        np.arange(len(lengths)),
        lengths,
        max_tokens=tokens_at_once(device),
        process=process,
        num_processes=num_processes,
    )


def tokens_at_once(device: torch.device) -> int:
    """Return how many tokens a batch without gradients has at most, padding included."""
    return CPU_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS
