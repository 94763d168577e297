"""What keeps its pretrained weights, and what trains. Frozen means: no gradient, and eval mode."""

import math
from collections.abc import Mapping

from torch import nn

from nlptl.config import TransferConfig, flag
from nlptl.errors import ConfigError
from nlptl.model.parts import EMBEDDINGS, HEAD, EncoderParts

ABOVE_LAYERS = -1
"""Depth of the final norm, the pooler and the head in `depths_below_top`."""


def check_transfer(config: TransferConfig) -> None:
    """Reject settings that contradict each other or would have no effect. Runs before anything is loaded.

    Raises:
        ConfigError: If there are such settings.
    """
    what, train_only, defaults = config.freeze, config.train_only, TransferConfig()
    if train_only in ("norms", "biases") and what == "encoder":
        raise ConfigError(
            f"Expected an encoder that trains for --train-only {train_only}, found it frozen. Pass --freeze nothing as "
            "well, or a number of layers."
        )
    if config.lora_rank is None:
        names = ("lora_alpha", "lora_targets", "lora_dropout", "dora")
        given = [flag(n) for n in names if getattr(config, n) != getattr(defaults, n)]
        if given:
            flags = ", ".join(given)
            raise ConfigError(f"Expected {flags} only with --lora-rank, found none. Pass --lora-rank 8 as well.")
    elif what == "encoder":
        raise ConfigError(
            "Expected layers that low-rank updates can change, found the encoder frozen. Pass --freeze nothing as "
            "well, or a number of layers, or leave --lora-rank out."
        )
    elif train_only is not None or config.reinit_layers:
        other = "reinit_layers" if train_only is None else "--train-only"
        raise ConfigError(
            f"Expected --lora-rank or {other}, found both; low-rank updates leave pretrained weights as they are. "
            "Leave one of the two out."
        )
    if config.reinit_layers and (what == "encoder" or train_only is not None):
        other = "--freeze encoder" if what == "encoder" else f"--train-only {train_only}"
        raise ConfigError(
            f"Expected new weights for layers that train, found reinit_layers {config.reinit_layers} with {other}. "
            "Leave one of the two out, or pass --freeze nothing."
        )


def check_freeze(parts: EncoderParts, config: TransferConfig) -> None:
    """Check what is to be frozen against the encoder and the other settings.

    Raises:
        ConfigError: If settings contradict each other, or the encoder has fewer layers or shares their weights.
    """
    what = config.freeze
    if isinstance(what, int) and (parts.shares_layers or what > parts.num_layers):
        found = "layers that share their weights" if parts.shares_layers else f"{parts.num_layers} layers"
        valid = "" if parts.shares_layers else f", or 1 to {len(parts.layers)}"
        raise ConfigError(
            f"Expected to freeze the lowest {what} layers, found an encoder with {found}. "
            f"Pass 'nothing', 'embeddings', 'encoder'{valid}."
        )
    check_transfer(config)


def trained_names(
    network: nn.Module,
    parts: EncoderParts,
    groups: Mapping[str, str],
    config: TransferConfig,
    unused_names: frozenset[str] = frozenset(),
    *,
    top: int | None = None,
) -> frozenset[str]:
    """Return the names of the parameters that train, as `check_freeze` has passed it; the head always does.

    `groups` says where each parameter stands. Parameters in `unused_names` never train, since no logit depends on them.
    At most `top` layers train, counted from the top; 0: the head alone; None: all that are not frozen.

    Raises:
        ConfigError: If there are no such norms or biases outside the head.
    """
    what, train_only = config.freeze, config.train_only
    depths = depths_below_top(parts)
    bottom = {"nothing": math.inf, "embeddings": depths[EMBEDDINGS], "encoder": ABOVE_LAYERS}
    limit = len(parts.layers) - what if isinstance(what, int) else bottom[what]
    if top is not None:
        limit = min(limit, top or ABOVE_LAYERS)
    kind = _names_of_norms(network) if train_only == "norms" else frozenset(groups)
    if train_only == "biases":
        kind = frozenset(name for name in groups if name.rpartition(".")[2].endswith("bias"))
    elif train_only == "head":
        kind = frozenset()
    kind &= frozenset(name for name in groups if is_adapter(name)) or kind
    names = frozenset(n for n, group in groups.items() if group == HEAD or (depths[group] < limit and n in kind))
    names -= unused_names
    if train_only in ("norms", "biases") and top is None and all(groups[name] == HEAD for name in names):
        raise ConfigError(
            f"Expected {train_only} in what is not frozen for --train-only {train_only}, found none. Freeze less, or "
            "leave --train-only out."
        )
    return names


def depths_below_top(parts: EncoderParts) -> dict[str, int]:
    """Return how many layers each group lies below the top one; for what stands above the layers, ABOVE_LAYERS."""
    names = (EMBEDDINGS, *parts.layer_names)
    depths = dict.fromkeys(parts.group_names, ABOVE_LAYERS)
    return depths | {name: depth for depth, name in enumerate(reversed(names))}


def eval_frozen_parts(module: nn.Module) -> None:
    """Put every part whose parameters are all frozen in eval mode: dropout off, as with cached outputs."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        eval_frozen_parts(child)


def num_frozen_layers(parts: EncoderParts, groups: Mapping[str, str], trained: frozenset[str]) -> int:
    """Return how many of the lowest layers never change, the embeddings included; 0 if there is no such boundary."""
    if parts.shares_layers or not parts.runs_in_turn:
        return 0
    changing = {groups[name] for name in trained}
    if EMBEDDINGS in changing:
        return 0
    return next((i for i, name in enumerate(parts.layer_names) if name in changing), parts.num_layers)


def describe_training(
    network: nn.Module, parts: EncoderParts, groups: Mapping[str, str], config: TransferConfig, unused: frozenset[str]
) -> str:
    """Return one line that says in words what trains, with the numbers of tensors and parameters."""
    train_only = config.train_only
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    read = {group for name, group in groups.items() if name not in unused}
    used = [name for name in parts.group_names if name in read and name != HEAD]
    changing = [name for name in used if any(groups[n] == name for n in trained)]
    frozen = [name for name in used if name not in changing]
    kind = "low-rank updates of " if any(map(is_adapter, trained)) else f"{train_only} of " if train_only else ""
    words = _spans(changing) if frozen else "encoder"
    what = ([f"{kind}{words}"] if changing else []) + (["head"] if any(groups[n] == HEAD for n in trained) else [])
    rest = "nothing else" if train_only else "nothing frozen"
    if frozen:
        rest = f"{_spans(frozen) if changing else 'encoder'} frozen"
    return (
        f"training {len(trained)} of {len(sizes)} tensors: {sum(sizes[n] for n in trained):,} of "
        f"{sum(sizes.values()):,} parameters ({' and '.join(what) or 'none'}); {rest}"
    )


def is_adapter(name: str) -> bool:
    """Return whether a parameter is part of the low-rank updates that peft has put beside a weight."""
    return ".lora_" in name


def _names_of_norms(network: nn.Module) -> frozenset[str]:
    return frozenset(
        f"{path}.{name}"
        for path, module in network.named_modules()
        if "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
        for name, _ in module.named_parameters(recurse=False)
    )


def _spans(names: list[str]) -> str:
    """Return names of groups as words: runs of layers as "layers 2 to 5"."""
    words: list[str] = []
    numbers: list[int] = []
    for name in [*names, ""]:
        if name.startswith("layer "):
            numbers.append(int(name[6:]))
            continue
        if numbers:
            words.append(f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]} to {numbers[-1]}")
            numbers = []
        words += [name] * bool(name)
    return ", ".join(words)
