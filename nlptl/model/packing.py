"""Runs the layers of an encoder without padding: the tokens of all texts in one row, padded only inside attention.

transformers pads texts to the longest of a batch, and its linear layers and norms then compute on padding too. Here the
layers see [1, tokens, width], where tokens are the real ones alone; attention gets [texts, longest, width] back, with
the mask that it always has. Logits and gradients are those of the padded pass, up to rounding, whatever the family does
with positions and masks, since all that stands below and above the layers is left as it is.

Where the head reads the first token alone, the last layer computes queries, and all that follows them, for the first
tokens alone; keys and values are still those of all tokens.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from nlptl.model.parts import EncoderParts
from nlptl.model.quick import drop

PACKED = "nlptl_packed"

ATTENTION_TOKENS = 512
"""Tokens, padding included, that attention has at once: texts of other lengths come in another group."""

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "modernbert")
"""Model types whose attention goes through transformers' attention interface."""

KEY_VALUE = {"distilbert": ("k_lin", "v_lin")}
"""Names of the linear layers of keys and values; elsewhere key and value. They read what the layer reads."""

FUSED = ("modernbert",)
"""Model types that compute queries, keys and values at once, after a norm: all tokens go through their last layer."""


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
class _Group:
    """Some texts in a row, of similar length: attention pads them to the longest of them."""

    rows: slice
    num_texts: int
    num_tokens: int
    longest: int
    places: torch.Tensor
    """Where in [num_texts * longest] each token stands."""

    def pad(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [num_texts, longest, width] of [num_tokens, width], zero where there is no token."""
        empty = tokens.new_zeros(self.num_texts * self.longest, tokens.shape[1])
        return empty.index_copy(0, self.places, tokens).view(self.num_texts, self.longest, -1)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Return [num_tokens, width] of [num_texts, longest, width]."""
        packed: torch.Tensor = _Gather.apply(padded.flatten(0, 1), self.places)
        return packed


@dataclass
class _Packing:
    """Where the tokens of a batch stand, all texts together and in groups; and what is known of it in a pass."""

    whole: _Group
    groups: list[_Group]
    first: torch.Tensor
    """Which of all tokens are the first ones of the texts."""
    all_tokens: torch.Tensor | None = None
    """What the last layer reads, where only the first tokens go through it."""
    masks: dict[int, list[torch.Tensor | None]] = field(default_factory=dict)
    """By the id of the mask that the encoder has made: the part of each group, false where nothing is attended to."""

    def masks_of(self, mask: torch.Tensor | None) -> list[torch.Tensor | None]:
        """Return the part [texts of it, 1, longest of it or 1, longest of it] of `mask` for each group."""
        if mask is None:
            return [None] * len(self.groups)
        if id(mask) not in self.masks:
            self.masks[id(mask)] = [mask[each.rows, :, : each.longest, : each.longest] for each in self.groups]
        return self.masks[id(mask)]


def _pack(mask: torch.Tensor) -> _Packing:
    lengths = mask.sum(dim=1)
    ends = lengths.cumsum(0)
    counts = lengths.tolist()
    starts, first = [0], 0
    for i, length in enumerate(counts):
        if (i + 1 - first) * max(length, *counts[first:i], 0) > ATTENTION_TOKENS and i > first:
            starts.append(first := i)
    parts = [slice(*part) for part in pairwise([*starts, len(counts)])]
    groups = [_group(mask, rows, longest=max(counts[rows])) for rows in parts]
    return _Packing(_group(mask, slice(None), longest=mask.shape[1]), groups, first=ends - lengths)


def _group(mask: torch.Tensor, rows: slice, *, longest: int) -> _Group:
    part = mask[rows, :longest]
    places = part.flatten().nonzero().squeeze(1)
    return _Group(rows, len(part), len(places), longest, places)


@contextmanager
def without_padding(
    encoder: PreTrainedModel, parts: EncoderParts, *, depth: int = 0, first_only: bool = False
) -> Iterator[None]:
    """Within it, every pass of the encoder is `packed`."""
    forward = encoder.forward

    @functools.wraps(forward)
    def without(*args: Any, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        with packed(encoder, parts, attention_mask, depth=depth, first_only=first_only):
            return forward(*args, attention_mask=attention_mask, **kwargs)

    encoder.forward = without
    try:
        yield
    finally:
        del encoder.forward


_packing: _Packing | None = None
"""What attention needs to know, while a packed pass goes on: no family hands it on."""


def can_pack(encoder: PreTrainedModel, parts: EncoderParts) -> bool:
    """Return whether `packed` works for this encoder as it is."""
    return encoder.config.model_type in FAMILIES and encoder.config._attn_implementation == "sdpa" and not parts.between


@contextmanager
def packed(
    encoder: PreTrainedModel,
    parts: EncoderParts,
    attention_mask: torch.Tensor,
    *,
    depth: int = 0,
    first_only: bool = False,
) -> Iterator[None]:
    """Within it, one pass of the encoder leaves padding out in the layers above the lowest `depth`.

    With `first_only`, the encoder returns the hidden states of the first tokens alone: [texts, 1, width].

    Args:
        encoder: One that `can_pack`.
        parts: Its parts.
        attention_mask: That of the pass [texts, longest].
        depth: Layers that are not run, since what they give is known.
        first_only: Whether nothing but the first token of the last layer is read.
    """
    global _packing
    packing = _pack(attention_mask.bool())
    whole = packing.whole
    first_only = first_only and encoder.config.model_type not in FUSED
    called = depth

    def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        nonlocal called
        called += 1
        hidden, *rest = args
        if called == depth + 1:
            hidden = whole.pack(hidden)[None]
        if kwargs.get("position_embeddings") is not None:
            cos_and_sin = (each.expand(whole.num_texts, -1, -1) for each in kwargs["position_embeddings"])
            kwargs["position_embeddings"] = tuple(whole.pack(each)[None] for each in cos_and_sin)
        if called == parts.num_layers and first_only:
            packing.all_tokens = hidden
            hidden = hidden[:, packing.first]
        return (hidden, *rest), kwargs

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        if called < parts.num_layers:
            return output
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.transpose(0, 1) if first_only else whole.pad(hidden[0])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layers = parts.layers if parts.shares_layers else parts.layers[depth:]
    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    names = KEY_VALUE.get(encoder.config.model_type, ("key", "value"))
    linears = [m for name, m in layers[-1].named_modules() if name.rpartition(".")[2] in names] if first_only else []
    hooks += [module.register_forward_pre_hook(_of_all_tokens) for module in linears]
    hooks += [module.register_forward_hook(_in_rows_of_texts) for module in linears]
    before_attention, encoder.config._attn_implementation = encoder.config._attn_implementation, PACKED
    _packing = packing
    try:
        yield
    finally:
        _packing = None
        encoder.config._attn_implementation = before_attention
        for hook in hooks:
            hook.remove()


def _of_all_tokens(module: nn.Module, args: Any) -> Any:
    assert _packing is not None
    return args if _packing.all_tokens is None else (_packing.all_tokens, *args[1:])


def _in_rows_of_texts(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Return keys or values as one long row for each text, which the layer takes for that of a first token."""
    assert _packing is not None
    return output if _packing.all_tokens is None else _packing.whole.pad(output[0]).flatten(1)[None]


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each text. Queries, keys and values are [1, heads, tokens, width of a head]."""
    packing = _packing
    assert packing is not None
    num_heads = query.shape[1]
    by_token = [each[0].transpose(0, 1).flatten(1) for each in (query, key, value)]
    if packing.all_tokens is not None:
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        shape = (packing.whole.num_texts, -1, num_heads, query.shape[3])
        q, k, v = (each.view(shape).transpose(1, 2) for each in by_token)
        return _attention(q, k, v, mask, **settings).transpose(1, 2).flatten(0, 1)[None], None
    sizes = [group.num_tokens for group in packing.groups]
    parts = zip(*(each.split(sizes) for each in by_token), strict=True)
    outputs = []
    for group, mask, part in zip(packing.groups, packing.masks_of(attention_mask), parts, strict=True):
        q, k, v = (group.pad(each).unflatten(2, (num_heads, -1)).transpose(1, 2) for each in part)
        output = _attention(q, k, v, mask, **settings)
        outputs.append(group.pack(output.transpose(1, 2).flatten(2)))
    return torch.cat(outputs).unflatten(1, (num_heads, -1))[None], None


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> torch.Tensor:
    if dropout == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling)
    # What torch does then on a CPU, with dropout that is quicker, and without looking for rows that are masked whole.
    scores = (query * (query.shape[3] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return drop(scores.softmax(dim=3), dropout) @ value


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, sdpa_mask)
