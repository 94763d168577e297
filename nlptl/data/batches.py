"""The order of examples, their split into micro-batches and over processes, and collation.

All of it is a pure function of the seed, the epoch, the lengths, the token budget and the number of processes:
every process knows the whole global batch without a message, and to resume is to know the step.
"""

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from nlptl.data.order import balanced_order, order
from nlptl.data.tokens import Tokens


def global_batches(
    num_examples: int, batch_size: int, *, seed: int, first_step: int, num_steps: int, classes: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each optimizer step from `first_step` on with the indices of its examples, over all processes.

    An epoch is a permutation of the examples cut into slices of `batch_size`; its last slice may be shorter. With the
    class of each example, all classes have equally many places in it.
    """
    steps_per_epoch = -(-num_examples // batch_size)
    permutation = np.zeros(0, dtype=np.int64)
    for step in range(first_step, num_steps):
        epoch, index = divmod(step, steps_per_epoch)
        if index == 0 or step == first_step:
            permutation = order(num_examples, seed, epoch) if classes is None else balanced_order(classes, seed, epoch)
        yield step, permutation[index * batch_size : (index + 1) * batch_size]


def micro_batches(
    indices: np.ndarray, lengths: np.ndarray, *, max_tokens: int, process: int = 0, num_processes: int = 1
) -> list[np.ndarray]:
    """Return the share of `indices` of one process, cut into micro-batches of similar length.

    The examples are sorted by length and dealt out from the longest on: the first process gets few long ones, the last
    many short ones, so that all have about as many tokens, with little padding. Each share is cut so that rows times
    longest row stays within `max_tokens`; an example longer than that gets a micro-batch of its own. A share may be
    empty, if there are few examples.
    """
    longest_first = indices[np.lexsort((indices, -lengths[indices]))]
    sizes = lengths[longest_first]
    start, end = _shares(sizes, max_tokens=max_tokens, num_processes=num_processes)[process : process + 2]
    parts = []
    while start < end:
        rows = max(1, max_tokens // int(sizes[start]))
        parts.append(longest_first[start : min(start + rows, end)])
        start += rows
    return parts


def _shares(sizes: np.ndarray, *, max_tokens: int, num_processes: int) -> list[int]:
    """Return where the share of each process begins, and the end, so that the largest share is as small as can be."""
    if num_processes == 1 or len(sizes) == 0:
        return [0] + [len(sizes)] * num_processes

    def fill(limit: int) -> list[int]:
        starts = [0]
        for _ in range(num_processes):
            starts.append(_fill_share(sizes, starts[-1], max_tokens=max_tokens, limit=limit))
        return starts

    enough = len(sizes) * int(sizes[0])
    return fill(bisect_left(range(enough), True, key=lambda limit: fill(limit)[-1] == len(sizes)))


def _fill_share(sizes: np.ndarray, start: int, *, max_tokens: int, limit: int) -> int:
    """Return where the share ends that begins at `start` and has at most `limit` tokens, padding included."""
    while start < len(sizes):
        longest = int(sizes[start])
        rows = min(max(1, max_tokens // longest), len(sizes) - start)
        taken = min(rows, limit // longest)
        start, limit = start + taken, limit - taken * longest
        if taken < rows:
            break
    return start


def collate(tokens: Tokens, indices: np.ndarray, *, pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask`, each [len(indices), longest text], padded on the right.

    For pairs there are `token_type_ids` of the same shape too, where the encoder wants them.
    """
    rows = [torch.from_numpy(tokens[i].astype(np.int64)) for i in indices]
    lengths = torch.tensor([len(row) for row in rows])
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
    batch = {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
    if tokens.types is not None:
        of_rows = [tokens.types[tokens.offsets[i] : tokens.offsets[i + 1]] for i in indices]
        types = [torch.from_numpy(each.astype(np.int64)) for each in of_rows]
        batch["token_type_ids"] = pad_sequence(types, batch_first=True).to(device)
    return batch
