"""Runs the layers of an encoder without padding: the tokens of all texts in one row, padded only inside attention.

transformers pads texts to the longest of a batch, and its linear layers and norms then compute on padding too. Here the
layers see [1, tokens, width], where tokens are the real ones alone; attention gets [texts, longest, width] back, with
the mask that it always has. Logits and gradients are those of the padded pass, up to rounding, whatever the family does
with positions and masks, since all that stands below and above the layers is left as it is.

Where the head reads the first token alone, the last layer computes queries, and all that follows them, for the first
tokens alone; keys and values are still those of all tokens.

On a CPU attention is padded in small groups of texts of similar length. On CUDA in bf16 or fp16 it is not padded at
all, since flash attention takes texts in one row; what that does not take is padded there as one group.
"""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from nlptl.model.parts import EncoderParts
from nlptl.model.quick import drop
from nlptl.model.relative_attention import deberta_attention
from nlptl.model.text_groups import TextGroup, attend_in_groups, cut_into_groups, text_offsets, whole_group

PACKED = "nlptl_packed"

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "modernbert")
"""Model types whose attention goes through transformers' attention interface."""

KEY_VALUE = {"distilbert": ("k_lin", "v_lin")}
"""Names of the linear layers of keys and values; elsewhere key and value. They read what the layer reads."""

DEBERTA, DEBERTA_ATTENTION = "deberta-v2", "DisentangledSelfAttention"
"""A model type, and its class whose forward `nlptl.model.relative_attention` replaces."""

ALL_TOKENS = ("modernbert", DEBERTA)
"""Model types whose last layer computes all tokens, even if the first ones alone are read: queries, keys and values
come of one product, after a norm, or scores of distances."""


@dataclass
class _Packing:
    """Where the tokens of a batch stand, all texts together and in groups; and what is known of it in a pass."""

    whole: TextGroup
    groups: list[TextGroup]
    """Texts that are padded together in attention."""
    first: torch.Tensor
    """Which of all tokens are the first ones of the texts."""
    offsets: torch.Tensor
    """What `text_offsets` returns."""
    longest: int
    """The most tokens between two offsets."""
    all_tokens: torch.Tensor | None = None
    """What the last layer reads, where only the first tokens go through it."""


@contextmanager
def without_padding(
    encoder: PreTrainedModel, parts: EncoderParts, *, depth: int = 0, first_only: bool = False
) -> Iterator[None]:
    """Within it, every pass of the encoder is `packed`. The caller sees to it that one thread at a time does this."""
    forward = encoder.forward

    @functools.wraps(forward)
    def without(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        packing = _find_places(attention_mask)
        if packing is None:
            return forward(*args, attention_mask=attention_mask, **kwargs)
        with packed(encoder, parts, packing, depth=depth, first_only=first_only):
            return forward(*args, attention_mask=attention_mask, **kwargs)

    with ExitStack() as undo:
        own = encoder.__dict__.get("forward")
        undo.callback(delattr if own is None else setattr, encoder, "forward", *([] if own is None else [own]))
        encoder.forward = without
        yield


_packing: ContextVar[_Packing | None] = ContextVar("packing", default=None)
"""The packing of the pass that this thread runs: no family passes it on to its attention."""


def can_pack(encoder: PreTrainedModel, parts: EncoderParts) -> bool:
    """Return whether `packed` works for this encoder as it is."""
    config = encoder.config
    family, kind = config.model_type, config._attn_implementation
    # A decoder's tokens do not see the next ones; of ALBERT's groups of layers, what a group reads is not what all do.
    is_plain = not getattr(config, "is_decoder", False) and getattr(config, "inner_group_num", 1) == 1
    return is_plain and (family == DEBERTA or (family in FAMILIES and kind == "sdpa")) and not parts.between


@contextmanager
def packed(
    encoder: PreTrainedModel, parts: EncoderParts, packing: _Packing, *, depth: int, first_only: bool
) -> Iterator[None]:
    """Within it, one pass of an encoder that `can_pack` leaves padding out in the layers above the lowest `depth`.

    With `first_only`, the encoder returns the hidden states of the first tokens alone: [texts, 1, width].
    """
    family, kind = encoder.config.model_type, encoder.config._attn_implementation
    with ExitStack() as undo:
        first_only = first_only and family not in ALL_TOKENS
        for hook in _hook_layers(parts, packing, depth, first_only=first_only, family=family):
            undo.callback(hook.remove)
        for module in encoder.modules():
            if family == DEBERTA and type(module).__name__ == DEBERTA_ATTENTION:
                undo.callback(delattr, module, "forward")
                module.forward = partial(_attend_by_distance, module)
        undo.callback(setattr, encoder.config, "_attn_implementation", kind)
        encoder.config._attn_implementation = kind if family == DEBERTA else PACKED
        undo.callback(_packing.reset, _packing.set(packing))
        yield


def _find_places(attention_mask: torch.Tensor | None) -> _Packing | None:
    """Return where tokens stand; None: there is no mask, or one of texts that are not padded on the right alone."""
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    device = attention_mask.device
    # Shapes depend on the mask, so an accelerator is waited for here, once in a pass: the rest is found on the CPU. The
    # distances of DeBERTa wait once more in each layer.
    mask = attention_mask.bool().cpu()
    if not mask[:, :1].all() or (mask[:, 1:] > mask[:, :-1]).any():
        return None
    whole = whole_group(mask)
    offsets = text_offsets(mask, num_tokens=whole.num_tokens)
    whole = replace(whole, places=whole.places.to(device))
    return _Packing(
        whole,
        cut_into_groups(mask) if device.type == "cpu" else [whole],
        first=offsets[: len(mask)].long().to(device),
        offsets=offsets.to(device),
        longest=int(offsets.diff().max()),
    )


def _hook_layers(
    parts: EncoderParts, packing: _Packing, depth: int, *, first_only: bool, family: str
) -> list[RemovableHandle]:
    """Let the layers above the lowest `depth` read tokens without padding, and the last one give it back."""
    whole, called = packing.whole, depth

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
        hidden = hidden.transpose(0, 1) if first_only else whole.pad(hidden.squeeze(0))
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layers = parts.layers if parts.shares_layers else parts.layers[depth:]
    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    names = KEY_VALUE.get(family, ("key", "value"))
    linears = [m for name, m in layers[-1].named_modules() if name.rpartition(".")[2] in names] if first_only else []
    hooks += [module.register_forward_pre_hook(_of_all_tokens) for module in linears]
    return hooks + [module.register_forward_hook(_in_rows_of_texts) for module in linears]


def _current() -> _Packing:
    packing = _packing.get()
    assert packing is not None
    return packing


def _of_all_tokens(module: nn.Module, args: Any) -> Any:
    all_tokens = _current().all_tokens
    return args if all_tokens is None else (all_tokens, *args[1:])


def _in_rows_of_texts(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Return keys or values as one long row for each text, which the layer takes for that of a first token."""
    packing = _current()
    return output if packing.all_tokens is None else packing.whole.pad(output.squeeze(0)).flatten(1)[None]


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each text. Queries, keys and values are [1, heads, tokens, width of a head]."""
    packing = _current()
    num_heads = query.shape[1]
    # Not each[0], whose gradient is a copy among zeros.
    by_token = [each.squeeze(0).transpose(0, 1).flatten(1) for each in (query, key, value)]
    if packing.all_tokens is not None:
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        shape = (packing.whole.num_texts, -1, num_heads, query.shape[3])
        q, k, v = (each.view(shape).transpose(1, 2) for each in by_token)
        return _attention(q, k, v, mask, **settings).transpose(1, 2).flatten(0, 1)[None], None
    if _takes_one_row(query, key, value):
        return _attend_in_one_row(query, key, value, packing, **settings), None

    def attend(group: TextGroup, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        mask = attention_mask
        if mask is not None:
            mask = mask[group.rows, :, : group.longest, : group.longest]
            if mask.device.type == "cpu" and mask.all():  # An accelerator would be waited for.
                mask = None
        return _attention(query, key, value, mask, **settings)

    packed = attend_in_groups(attend, packing.groups, *by_token, num_heads=num_heads)
    return packed.unflatten(1, (num_heads, -1))[None], None


def _takes_one_row(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Return whether flash attention is there, and takes such tensors: on CUDA, and in bf16 or fp16."""
    params = SDPAParams(query, key, value, None, 0.0, False, False)
    return query.shape[3] % 8 == 0 and can_use_flash_attention(params)


def _attend_in_one_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: _Packing,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> torch.Tensor:
    """Return [1, tokens, heads, width of a head]: what `_attend` does, by flash attention.

    Padding behind the texts attends to itself, as a text that nothing reads: to cut it off would cost a copy.
    """
    by_token = (each[0].transpose(0, 1) for each in (query, key, value))
    offsets, longest = packing.offsets, packing.longest
    reach = None if sliding_window is None else sliding_window - 1  # tokens on either side
    # What torch.nn.attention.varlen calls, which has no dropout.
    output: torch.Tensor = torch.ops.aten._flash_attention_forward(
        *by_token,
        offsets,
        offsets,
        longest,
        longest,
        dropout,
        False,
        False,
        scale=scaling,
        window_size_left=reach,
        window_size_right=reach,
    )[0]
    return output[None]


def _attend_by_distance(
    module: nn.Module, hidden: torch.Tensor, attention_mask: torch.Tensor, *args: Any, **kwargs: Any
) -> Any:
    distances = {name: kwargs[name] for name in ("relative_pos", "rel_embeddings")}
    return deberta_attention(module, _current().groups, hidden, attention_mask, **distances)


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
    if mask is not None:  # Adding what is the same for all heads is quicker than filling in, and has no gradient.
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return drop(scores.softmax(dim=3), dropout) @ value


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, sdpa_mask)
