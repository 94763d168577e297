"""Texts of a batch in groups of similar length: their tokens in a row, and padded to the longest of a group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

ATTENTION_TOKENS = 512
"""Tokens, padding included, of a group."""

ROUND = 32
"""What the number of rows that go through the layers is a multiple of, if there is padding enough: oneDNN compiles code
for each number, and keeps it."""


class _Scatter(torch.autograd.Function):
    """Rows put to places that are all different, and zero elsewhere; torch's own copies the zeros once more."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, places: torch.Tensor, num_rows: int) -> torch.Tensor:
        ctx.save_for_backward(places)
        return rows.new_zeros(num_rows, *rows.shape[1:]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):
    """Rows at places that are all different; torch's own gradient of it adds row by row."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places)
        ctx.num_rows = len(padded)
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (places,) = ctx.saved_tensors
        (grad,) = grads
        return grad.new_zeros(ctx.num_rows, *grad.shape[1:]).index_copy_(0, places, grad), None


@dataclass(frozen=True)
class TextGroup:
    """Some texts in a row, of similar length."""

    rows: slice
    num_texts: int
    num_tokens: int
    longest: int
    places: torch.Tensor
    """Where in [num_texts * longest] each token stands."""
    has_padding: bool
    """Whether some of the texts are shorter than the longest; if not, nothing has to be copied."""

    def pad(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [num_texts, longest, width] of [num_tokens, width], zero where there is no token."""
        if not self.has_padding:
            return tokens.view(self.num_texts, self.longest, -1)
        padded: torch.Tensor = _Scatter.apply(tokens, self.places, self.num_texts * self.longest)
        return padded.view(self.num_texts, self.longest, -1)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Return [num_tokens, width] of [num_texts, longest, width]."""
        if not self.has_padding:
            return padded.flatten(0, 1)
        packed: torch.Tensor = _Gather.apply(padded.flatten(0, 1), self.places)
        return packed


def whole_group(mask: torch.Tensor) -> TextGroup:
    """Return all texts of a batch as one group, as long as the batch is padded; `mask` is bool [texts, longest].

    Some padding may come after the tokens, as many places as make their number round.
    """
    group = _group(mask, slice(None), longest=mask.shape[1])
    if not group.has_padding:
        return group
    num_more = -group.num_tokens % ROUND
    padding = mask.flatten().logical_not().nonzero().squeeze(1)[:num_more]
    places = torch.cat([group.places, padding])
    return replace(group, num_tokens=len(places), places=places)


def text_offsets(mask: torch.Tensor, *, num_tokens: int) -> torch.Tensor:
    """Return where each text begins among the tokens of all texts, and where the last one ends: int32 [texts + 1].

    If there are `num_tokens` with padding behind the texts, where that ends comes last.
    """
    ends = mask.sum(dim=1).cumsum(0).tolist()
    return torch.tensor([0, *ends, *[num_tokens] * (num_tokens > ends[-1])], dtype=torch.int32)


def cut_into_groups(mask: torch.Tensor) -> list[TextGroup]:
    """Return the texts of a batch, in their order, in groups with little padding if they are sorted by length."""
    lengths = mask.sum(dim=1).tolist()
    starts, start = [0], 0
    for i in range(1, len(lengths)):
        size = (i + 1 - start) * max(lengths[start : i + 1])
        # Many texts of one length make a group without padding.
        if size > ATTENTION_TOKENS or (lengths[i] != lengths[i - 1] and 2 * size > ATTENTION_TOKENS):
            starts.append(start := i)
    parts = [slice(*part) for part in pairwise([*starts, len(lengths)])]
    return [_group(mask, rows, longest=max(lengths[rows])) for rows in parts]


def attend_in_groups(
    attend: Callable[..., torch.Tensor],
    groups: Sequence[TextGroup],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    num_heads: int,
) -> torch.Tensor:
    """Return [tokens, width]: what `attend(group, query, key, value)` makes of each group.

    It gets and gives [texts, heads, longest, width of a head]; queries, keys and values are [tokens, width].
    """
    sizes = [group.num_tokens for group in groups]
    num_more = len(value) - sum(sizes)
    assert 0 <= num_more < ROUND
    outputs = []
    by_group = (each.split([*sizes, num_more])[:-1] for each in (query, key, value))
    for group, *parts in zip(groups, *by_group, strict=True):
        output = attend(group, *(group.pad(part).unflatten(2, (num_heads, -1)).transpose(1, 2) for part in parts))
        outputs.append(group.pack(output.transpose(1, 2).flatten(2)))
    return torch.cat([*outputs, value.new_zeros(num_more, value.shape[1])])


def _group(mask: torch.Tensor, rows: slice, *, longest: int) -> TextGroup:
    part = mask[rows, :longest]
    places = part.flatten().nonzero().squeeze(1)
    return TextGroup(rows, len(part), len(places), longest, places, has_padding=len(places) < part.numel())
