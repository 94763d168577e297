"""Names the parts of an encoder by depth: embeddings, layers, final norm, pooler.

Found by structure, not by tables of names: the layers are the one list of `num_hidden_layers` modules, and a tiny
forward pass shows what is called below them, between them and above them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from nlptl.errors import ConfigError

EMBEDDINGS, FINAL_NORM, POOLER, HEAD = "embeddings", "final norm", "pooler", "head"


@dataclass(frozen=True)
class EncoderParts:
    """The modules of an encoder by depth; what stands nowhere here belongs to the embeddings.

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
    layers, num_layers = _find_layers(encoder), int(encoder.config.num_hidden_layers)
    pooler = getattr(encoder, "pooler", None)
    inside = {id(module) for part in (*layers, pooler) if part is not None for module in part.modules()}
    outside = [m for m in encoder.modules() if id(m) not in inside and m._parameters]
    calls = _record_calls(encoder, layers, outside)
    if calls.num_layers != num_layers:
        raise ConfigError(_not_built_alike(encoder, f"layers that were called {calls.num_layers} times"))
    after = {depth: tuple(m for m in outside if calls.depths.get(id(m), 0) == depth) for depth in range(num_layers + 1)}
    between = {depth - 1: after[depth] for depth in range(1, num_layers) if after[depth]}
    return EncoderParts(layers, num_layers, calls.layer_outputs, calls.embeddings, between, after[num_layers], pooler)


def check_padding(encoder: PreTrainedModel) -> None:
    """Check that the hidden states of a text do not depend on its padding. Leaves the encoder in eval mode.

    Raises:
        ConfigError: If they do, as where layers mix neighbors or all tokens without looking at the mask.
    """
    ids = torch.arange(1, 5, device=encoder.device)[None]
    padded = torch.cat([ids, torch.ones_like(ids)], dim=1)
    mask = (torch.arange(8, device=encoder.device) < 4).long()[None]
    encoder.eval()
    with torch.no_grad():
        alone = encoder(input_ids=ids, attention_mask=mask[:, :4]).last_hidden_state
        beside = encoder(input_ids=padded, attention_mask=mask).last_hidden_state
    if alone.shape[1] != 4 or beside.shape[1] != 8 or (alone - beside[:, :4]).abs().max() > 1e-4 * alone.abs().max():
        raise ConfigError(
            f"Expected an encoder that leaves padding out, found {type(encoder).__name__}, whose hidden states change "
            "with it. Pass a model of another family, such as bert, roberta or deberta-v2."
        )


def _find_layers(encoder: PreTrainedModel) -> tuple[nn.Module, ...]:
    config = encoder.config
    # albert repeats its few groups of layers.
    count = getattr(config, "num_hidden_groups", config.num_hidden_layers)
    found = list(_outermost_lists(encoder, count))
    if len(found) != 1:
        raise ConfigError(_not_built_alike(encoder, f"{len(found)} lists of {count} modules"))
    return tuple(found[0])


def _outermost_lists(module: nn.Module, length: int) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) == length:
            yield child
        else:
            yield from _outermost_lists(child, length)


@dataclass
class _Calls:
    num_layers: int = 0
    depths: dict[int, int] = field(default_factory=dict)  # by id(module): layers that had run when it was called
    outputs: dict[int, nn.Module] = field(default_factory=dict)  # by id(tensor): which module returned it
    embeddings: nn.Module | None = None
    layer_outputs: int | None = None


def _record_calls(encoder: PreTrainedModel, layers: tuple[nn.Module, ...], outside: list[nn.Module]) -> _Calls:
    """Run two tokens through the encoder, and return what was called when."""
    calls, kept = _Calls(), []

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

    hooks = [layer.register_forward_pre_hook(before_layer) for layer in layers]
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
