"""Runs a model over many texts: sorted by length, in batches by tokens, results in the order of the texts."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nlptl.data.batches import collate, micro_batches
from nlptl.data.tokens import Tokens

CPU_TOKENS, ACCELERATOR_TOKENS = 2048, 65536


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode without gradients, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def map_texts(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    tokens: Tokens,
    *,
    pad_id: int,
    device: torch.device,
    process: int = 0,
    num_processes: int = 1,
    progress: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply `function(input_ids, attention_mask) -> [rows, width]` to this process's share of the texts.

    Returns:
        The results [texts, width] in the order of the texts, zero for texts of other processes; and how often each
        text was computed [texts]. Summed over processes, every count is 1.
    """
    max_tokens = CPU_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS
    everything = np.arange(len(tokens))
    share = micro_batches(
        everything, tokens.lengths, max_tokens=max_tokens, process=process, num_processes=num_processes
    )
    width = None
    results = torch.zeros(len(tokens), 0, device=device)
    counts = torch.zeros(len(tokens), dtype=torch.long, device=device)
    is_silent = progress is None or not sys.stderr.isatty()
    # One text tells the width to a process that has none of its own.
    for rows in tqdm(share or [everything[:1]], desc=progress, disable=is_silent, leave=False):
        batch = collate(tokens, rows, pad_id=pad_id, device=device)
        output = function(batch["input_ids"], batch["attention_mask"])
        if width is None:
            width = output.shape[1]
            results = torch.zeros(len(tokens), width, dtype=output.dtype, device=device)
        if share:
            index = torch.from_numpy(rows).to(device)
            results[index] = output
            counts[index] += 1
    return results, counts
