"""LoRA, through peft: low-rank updates that train in place of an encoder's weights.

The updates are put into a transformers network where they are, never into its head. The weight of an adapted layer is
then named `...query.base_layer.weight`, and all that trains inside the encoder has `lora_` in its name.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from nlptl.config import TransferConfig
from nlptl.data.order import stream_key
from nlptl.errors import ConfigError
from nlptl.model.folder import new_folder
from nlptl.model.heads import HeadedClassifier
from nlptl.model.inference import evaluating
from nlptl.model.seeding import seeded

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add_lora(network: PreTrainedModel, layers: Sequence[nn.Module], config: TransferConfig, *, seed: int) -> None:
    """Put low-rank updates on linear layers of an encoder; of its parameters, they alone train from then on.

    The updates start at zero, so that no output changes. Outside the encoder, the same parameters train as before.

    Args:
        network: Encoder and head.
        layers: Layers of the encoder that may be adapted.
        config: The rank of the updates, and what else is said of them.
        seed: Seeds the updates.

    Raises:
        ConfigError: If peft is not installed, or a target is not a linear layer in
            `layers` that the forward pass calls.
    """
    peft = _import_peft()
    if has_adapters(network):
        raise ConfigError("Expected a network without adapters, found one with LoRA. Load the model again.")
    prefix = f"{network.base_model_prefix}."
    trained = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith(prefix)]
    with evaluating(network):
        names = _find_targets(network, layers, config.lora_targets)
        lora = peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            use_dora=config.dora,
            target_modules=_pattern(names),
        )
        with seeded(stream_key("lora", seed)):
            peft.inject_adapter_in_model(lora, network)
    network.eval()  # the new modules too
    for parameter in trained:
        parameter.requires_grad = True


def has_adapters(network: nn.Module) -> bool:
    """Return whether `add_lora` has put updates into `network`."""
    return any(".lora_A." in name for name, _ in network.named_parameters())


def merged_state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of `network` under their stock names with the updates merged in; `network` is not changed."""
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in network.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in _adapted_layers(network).items():
        merged = copy.deepcopy(layer)  # one at a time: peft merges in place, and unmerging is not exact
        merged.merge()
        state[f"{name}.weight"] = merged.get_base_layer().weight.detach()
    return state


def save_adapter(
    network: PreTrainedModel,
    folder: Path,
    *,
    base: str,
    head_names: frozenset[str],
    instead: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the updates as a stock peft adapter, which `PeftModel.from_pretrained(model, folder)` puts on `model`.

    With the architecture's own head, `model` is `AutoModelForSequenceClassification.from_pretrained(base,
    num_labels=...)`, and the adapter brings the trained head along. With a head of nlptl, which peft does not know, it
    is `AutoModel.from_pretrained(base)`, and the adapter is that of the encoder alone: the head is in the model folder.

    `base` names the pretrained model in the adapter; `owner/name@revision` pins a Hub id. Of the encoder, only the
    parameters in `head_names` were trained in full; `instead` has values to write for some of them, by name. The folder
    appears whole or not at all; an adapter that is there already is replaced.

    Raises:
        ConfigError: If `folder` holds something else than an adapter.
        ResourceError: If the disk is full or cannot be written.
    """
    config, tensors = _stock_adapter(network, head_names, instead or {})
    repository, _, revision = base.partition("@")
    is_pinned = revision and not Path(base).is_dir()
    config.base_model_name_or_path, config.revision = (repository, revision) if is_pinned else (base, None)
    with new_folder(folder.absolute(), what="adapter", mark=CONFIG) as staging:
        config.save_pretrained(staging)
        named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in sorted(tensors.items())}
        save_file(named, staging / WEIGHTS, metadata={"format": "pt"})


def _import_peft() -> Any:
    try:
        import peft  # Here, since it takes seconds.
    except ImportError as error:
        raise ConfigError(
            f"Expected the package peft for LoRA (--lora-rank), cannot import it: {error}. "
            "Install it with pip install 'nlptl[lora]', or leave --lora-rank out."
        ) from error
    return peft


def _find_targets(network: PreTrainedModel, layers: Sequence[nn.Module], targets: tuple[str, ...]) -> list[str]:
    """Return the full names of the linear layers that `targets` name."""
    inside: set[nn.Module] = {module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)}
    called = _called_modules(network, inside)
    choices = [name for name, module in network.named_modules() if module in called]
    if not choices and layers:
        raise ConfigError(
            f"Expected linear layers of torch for LoRA, found none in a layer of {network.config.model_type}, which "
            "multiplies in another way. Pass a model of another family, or leave --lora-rank out."
        )
    if not choices:
        raise ConfigError(
            "Expected linear layers above the frozen ones for LoRA, found none. "
            "Pass --freeze nothing or a smaller number of layers, or leave --lora-rank out."
        )
    if targets == ("auto",):
        return choices
    selected = {name for name in choices if any(_is_last_part(target, name) for target in targets)}
    unknown = [target for target in targets if not any(_is_last_part(target, name) for name in selected)]
    if unknown or not targets:
        parts = (name for layer in layers for name, module in layer.named_modules() if module in called)
        found = f"{unknown[0]!r}, which {_why_not(network, unknown[0], inside)}" if unknown else "no name"
        raise ConfigError(
            f"Expected 'auto', or the last parts of names of linear layers for lora_targets, found {found}. "
            f"Pass auto alone, or some of: {', '.join(dict.fromkeys(parts))}."
        )
    return [name for name in choices if name in selected]


def _why_not(network: nn.Module, target: str, inside: set[nn.Module]) -> str:
    named = [m for name, m in network.named_modules() if isinstance(m, nn.Linear) and _is_last_part(target, name)]
    if not named:
        return "names no linear layer"
    if inside.isdisjoint(named):
        return (
            "is only outside the layers that can be adapted (in the embeddings, a frozen layer, the pooler, the head)"
        )
    return "the forward pass never calls"


def _is_last_part(target: str, name: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _called_modules(network: PreTrainedModel, modules: set[nn.Module]) -> set[nn.Module]:
    """Return those of `modules` that a forward pass calls.

    An update acts only where its layer is called: where a model reads the weight alone, it would get no gradient.
    """
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in modules]
    try:
        ids = torch.zeros(1, 2, dtype=torch.long, device=network.device)
        network.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _pattern(names: Sequence[str]) -> str:
    """Return a regular expression that selects these modules and no others; peft takes a list as last parts of names.

    A list would also be stored as a set, in an order that changes from run to run.
    """
    return "|".join(re.escape(name) for name in names)


def _adapted_layers(network: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in network.named_modules() if hasattr(module, "lora_A")}


def _stock_adapter(
    network: PreTrainedModel, head_names: frozenset[str], instead: Mapping[str, torch.Tensor]
) -> tuple[Any, dict[str, torch.Tensor]]:
    peft = _import_peft()
    brings_head = not isinstance(network, HeadedClassifier)
    # Inside a HeadedClassifier the names of AutoModel have a prefix.
    prefix = "" if brings_head else f"{network.base_model_prefix}."
    state = peft.get_peft_model_state_dict(network, save_embedding_layers=False)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    config: Any = copy.deepcopy(cast(Any, network).peft_config["default"])
    config.target_modules = _pattern([name.removeprefix(prefix) for name in _adapted_layers(network)])
    config.inference_mode = True
    config.task_type = peft.TaskType.FEATURE_EXTRACTION
    if brings_head:
        tensors |= {name: instead.get(name, network.get_parameter(name)).detach() for name in head_names}
        config.modules_to_save = _head_modules(network, head_names)
        config.task_type = peft.TaskType.SEQ_CLS
    return config, tensors


def _head_modules(network: PreTrainedModel, head_names: frozenset[str]) -> list[str]:
    """Return the outermost modules of the head; those in the encoder, a new pooler, have its prefix."""
    inside = f"{network.base_model_prefix}."
    return sorted({".".join(name.split(".")[: 2 if name.startswith(inside) else 1]) for name in head_names})
