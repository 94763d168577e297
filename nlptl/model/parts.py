"""Names the parts of an encoder by depth: embeddings, layers, final norm, pooler.

Found by structure, not by tables of names: the layers are the one list of `num_hidden_layers` modules, and a tiny
forward pass shows what is called below them, between them and above them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from nlptl.errors import ConfigError

EMBEDDINGS, FINAL_NORM, POOLER, HEAD = "embeddings", "final norm", "pooler", "head"


@dataclass(frozen=True)
class EncoderParts:
    """The modules of an encoder by depth; what stands nowhere here belongs to the embeddings.

    If `runs_in_turn` is False, the layers are known, but none of them can be run or replaced on its own: their parts
    are called one by one (xlm), or in a way that hooks do not see (squeezebert).
    `layers` are lowest first; if `shares_layers`, there are fewer of them than times that a layer is run (albert).
    `layer_outputs` is the length of the tuple that a layer returns; None: it returns the hidden states alone.
    `embeddings` is the module whose output the lowest layer reads as it is, if there is one (albert has none).
    `between` holds what runs after a layer and before the next one, by the index of the layer (deberta-v2).
    """

    layers: tuple[nn.Module, ...]
    num_layers: int
    layer_outputs: int | None = None
    embeddings: nn.Module | None = None
    between: Mapping[int, tuple[nn.Module, ...]] = field(default_factory=dict)
    final_norm: tuple[nn.Module, ...] = ()
    pooler: nn.Module | None = None
    runs_in_turn: bool = True

    @property
    def shares_layers(self) -> bool:
        """Whether several layers have the same weights, so that none of them can be treated alone."""
        return len(self.layers) < self.num_layers

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the groups of layers, lowest first."""
        if self.shares_layers:
            return (f"layers 1 to {self.num_layers}, shared",)
        return tuple(f"layer {i + 1}" for i in range(len(self.layers)))

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of all groups of a network over this encoder, lowest first; a group may be empty."""
        return (EMBEDDINGS, *self.layer_names, FINAL_NORM, POOLER, HEAD)

    def group_parameters(self, network: nn.Module, head_names: frozenset[str]) -> dict[str, str]:
        """Return the group of each parameter of `network`, in the order of its parameters."""
        groups: dict[int, str] = {}
        for i, layer in enumerate(self.layers):
            name = self.layer_names[min(i, len(self.layer_names) - 1)]
            for module in (layer, *self.between.get(i, ())):
                groups |= {id(parameter): name for parameter in module.parameters()}
        for module in self.final_norm:
            groups |= {id(parameter): FINAL_NORM for parameter in module.parameters()}
        if self.pooler is not None:
            groups |= {id(parameter): POOLER for parameter in self.pooler.parameters()}
        return {
            name: HEAD if name in head_names else groups.get(id(parameter), EMBEDDINGS)
            for name, parameter in network.named_parameters()
        }


def find_parts(encoder: PreTrainedModel) -> EncoderParts:
    """Find the parts of an encoder as transformers has built it. Leaves it in eval mode.

    Raises:
        ConfigError: If it is not one embedding, one stack of layers that run in turn, and what follows.
    """
    lists, num_layers = _find_layers(encoder), int(encoder.config.num_hidden_layers)
    layers = tuple(lists[0]) if len(lists) == 1 else tuple(map(nn.ModuleList, zip(*lists, strict=True)))
    pooler = getattr(encoder, "pooler", None)
    inside = {id(module) for part in (*layers, pooler) if part is not None for module in part.modules()}
    outside = [m for m in encoder.modules() if id(m) not in inside and m._parameters]
    calls = _record_calls(encoder, lists, outside)
    if calls.num_layers not in (0, num_layers):
        raise ConfigError(_not_built_alike(encoder, f"layers that were called {calls.num_layers} times"))
    if not calls.are_in_turn:
        raise ConfigError(_not_built_alike(encoder, f"{len(lists)} lists of {len(layers)} modules"))
    after = {depth: tuple(m for m in outside if calls.depths.get(id(m), 0) == depth) for depth in range(num_layers + 1)}
    between = {depth - 1: after[depth] for depth in range(1, num_layers) if after[depth]}
    return EncoderParts(
        layers,
        num_layers,
        calls.layer_outputs,
        calls.embeddings,
        between,
        after[num_layers],
        pooler,
        runs_in_turn=len(lists) == 1 and calls.num_layers > 0,
    )


def check_tokens(encoder: PreTrainedModel) -> None:
    """Check that the hidden states of a text depend on all of its tokens, and not on its padding.

    Leaves the encoder in eval mode.

    Raises:
        ConfigError: If they depend on padding, as where layers mix neighbors or all tokens without looking at the mask,
            or a token does not see the next ones, as in a decoder.
    """
    pad_id = encoder.config.pad_token_id or 0
    ids = torch.tensor([[i for i in range(2, 8) if i != pad_id][:4]], device=encoder.device)
    other, padded = ids.clone(), torch.cat([ids, torch.full_like(ids, pad_id)], dim=1)
    other[0, -1] = ids[0, 0]
    encoder.eval()
    with torch.no_grad():
        alone, changed, beside = (
            encoder(
                input_ids=each, attention_mask=(torch.arange(each.shape[1], device=ids.device) < 4)[None].long()
            ).last_hidden_state
            for each in (ids, other, padded)
        )
    if alone.shape[1] != 4 or beside.shape[1] != 8 or (alone - beside[:, :4]).abs().max() > 1e-4 * alone.abs().max():
        raise ConfigError(
            f"Expected an encoder that leaves padding out, found {type(encoder).__name__}, whose hidden states change "
            "with it. Pass a model of another family, such as bert, roberta or deberta-v2."
        )
    if torch.equal(alone[:, :-1], changed[:, :-1]):
        raise ConfigError(
            f"Expected an encoder, each token of which sees all others, found {type(encoder).__name__}, whose tokens "
            "do not see the next ones, as in a decoder. Pass an encoder, such as bert, roberta or deberta-v2."
        )


def _find_layers(encoder: PreTrainedModel) -> list[nn.ModuleList]:
    """Return the list of layers; or several that each have one part of every layer, such as its attention."""
    config = encoder.config
    # albert repeats its few groups of layers.
    count = getattr(config, "num_hidden_groups", config.num_hidden_layers)
    found = list(_outermost_lists(encoder, count))
    if not found:
        raise ConfigError(_not_built_alike(encoder, f"no list of {count} modules"))
    return found


def _outermost_lists(module: nn.Module, length: int) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) == length:
            yield child
        else:
            yield from _outermost_lists(child, length)


@dataclass
class _Calls:
    num_layers: int = 0
    are_in_turn: bool = True  # whether all parts of a layer were called before those of the next one
    depths: dict[int, int] = field(default_factory=dict)  # by id(module): layers that had run when it was called
    outputs: dict[int, nn.Module] = field(default_factory=dict)  # by id(tensor): which module returned it
    embeddings: nn.Module | None = None
    layer_outputs: int | None = None


def _record_calls(encoder: PreTrainedModel, lists: list[nn.ModuleList], outside: list[nn.Module]) -> _Calls:
    """Run two tokens through the encoder, and return what was called when."""
    calls, kept, layers = _Calls(), [], lists[0]

    def before_layer(module: nn.Module, args: Any) -> None:
        if calls.num_layers == 0:
            calls.embeddings = calls.outputs.get(id(args[0]))
        calls.num_layers += 1

    def after_layer(module: nn.Module, args: Any, output: Any) -> None:
        calls.layer_outputs = len(output) if isinstance(output, tuple) else None

    def before(module: nn.Module, args: Any) -> None:
        calls.depths[id(module)] = calls.num_layers

    def after(module: nn.Module, args: Any, output: Any) -> None:
        kept.append(output)  # Alive, so that its id stays its own.
        calls.outputs[id(output)] = module

    def note(i: int, module: nn.Module, args: Any) -> None:
        calls.are_in_turn &= i == calls.num_layers - 1

    hooks = [layer.register_forward_pre_hook(before_layer) for layer in layers]
    hooks += [m.register_forward_pre_hook(partial(note, i)) for each in lists[1:] for i, m in enumerate(each)]
    hooks += [layer.register_forward_hook(after_layer) for layer in layers]
    hooks += [module.register_forward_pre_hook(before) for module in outside]
    hooks += [module.register_forward_hook(after) for module in encoder.children()]
    encoder.eval()
    try:
        with torch.no_grad():
            ids = torch.zeros(1, 2, dtype=torch.long, device=encoder.device)
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _not_built_alike(encoder: PreTrainedModel, found: str) -> str:
    return (
        f"Expected an encoder with one stack of {encoder.config.num_hidden_layers} layers that run in turn, found "
        f"{found} in {type(encoder).__name__}. Pass a model of another family, such as bert, roberta or deberta-v2."
    )
