"""FSDP2: processes that each hold a share of the weights, of their gradients and of the optimizer's state.

Accelerate's launcher asks for it, and its plugin holds the options; torch's `fully_shard` does it, layer by layer.
Gathering a layer takes all processes, so that each of them has to do as many passes as the others.
"""

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    convert_outputs_to_fp32,
    parse_flag_from_env,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.parts import EMBEDDINGS
from nlptl.training.stages import Stage

logger = logging.getLogger(__name__)


def read_plugin(accelerator: Accelerator) -> None:
    """Take FSDP2 from the launcher, on CPUs too, where Accelerate leaves it out by itself.

    Raises:
        ConfigError: If the launcher asks for another version of FSDP, or an option that would not be obeyed.
    """
    state = accelerator.state
    if accelerator.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        # In both places, as Accelerate has it on GPUs: one is copied from the other whenever an optimizer is prepared.
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin: Any = state.fsdp_plugin
    wrap = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    found = {
        f"fsdp_version {plugin.fsdp_version}": plugin.fsdp_version != 2,
        f"fsdp_auto_wrap_policy {wrap}": wrap.upper() != "TRANSFORMER_BASED_WRAP",
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing": plugin.activation_checkpointing,
        "fsdp_ignored_modules": plugin.ignored_modules is not None,
        "use_parallelism_config": accelerator.parallelism_config is not None,
    }
    wrong = [name for name, is_wrong in found.items() if is_wrong]
    if wrong:
        raise ConfigError(
            "Expected fsdp_version 2 from the launcher, fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP or none, and "
            f"nothing of offloading, checkpointing or other parallelism, found {', '.join(wrong)}. Set the first two, "
            "and take the rest away."
        )


def check_sharding(model: Classifier, accelerator: Accelerator, stages: Sequence[Stage]) -> None:
    """Refuse, before training under FSDP2, what it does not do.

    Raises:
        ConfigError: If there are several stages, or checkpoints of gradients, or the launcher names other layers than
            those of the encoder.
    """
    if not accelerator.is_fsdp2:
        return
    if len(stages) > 1:
        raise ConfigError(
            f"Expected one stage under FSDP2, since the same weights train throughout, found {len(stages)}. Leave "
            "--warm-head-epochs and --unfreeze-every-epochs out, or launch without FSDP."
        )
    if model.checkpoints_gradients:
        raise ConfigError(
            "Expected layers that keep what their gradient needs under FSDP2, found gradient_checkpointing. Leave "
            "gradient_checkpointing out; --micro-batch-tokens bounds memory too."
        )
    layers = {type(layer).__name__ for layer in model.parts.layers}
    named = set(accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap or layers)
    if named != layers:
        raise ConfigError(
            f"Expected {', '.join(layers)}, the layers of the encoder, as fsdp_transformer_layer_cls_to_wrap, found "
            f"{', '.join(sorted(named))}. Leave it out."
        )


@contextmanager
def sharded(model: Classifier, accelerator: Accelerator) -> Iterator[Classifier]:
    """Give a copy of `model` to train, sharded over the processes; at the end `model` gets the weights of the copy.

    Without FSDP2 that is `model` itself. What is computed once, the frozen layers below the lowest one that trains, is
    whole on every process. After an exception `model` has the weights it had, since others may not be there to gather
    those of the copy.
    """
    if not accelerator.is_fsdp2:
        yield model
        return
    logger.info("FSDP2: each of %d processes holds its share of what trains", accelerator.num_processes)
    shards = copy.deepcopy(model.to("cpu"))  # There the whole weights take no room on the device.
    _shard(shards.to(accelerator.device), accelerator)
    yield shards
    trained = dict(shards.network.named_parameters())
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            parameter.copy_(whole(trained[name]))
    model.to(accelerator.device)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `model` is a copy that `sharded` gives."""
    return isinstance(model, FSDPModule)


@contextmanager
def resharded(model: nn.Module) -> Iterator[None]:
    """Drop, after passes without gradients, weights that were gathered in them; training changes the shares alone."""
    yield
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that is whole; every process has to call this for one that is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return `tensor`, which is whole on every process, sharded as `other` is, or replicated if of another shape."""
    if not isinstance(other, DTensor):
        return tensor
    placements = other.placements if tensor.shape == other.shape else [Replicate()]
    return distribute_tensor(tensor.to(other.device), other.device_mesh, placements, src_data_rank=None)


def _shard(model: Classifier, accelerator: Accelerator) -> None:
    # Gathered in the precision in which autocast uses them, so that no second copy of them waits for the backward pass;
    # gradients are summed in full.
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    policy = MixedPrecisionPolicy(half, half and torch.float32, cast_forward_inputs=False)
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "reshard_after_forward": accelerator.state.fsdp_plugin.reshard_after_forward,
        "mp_policy": policy,
        "ignored_params": _computed_once(model),
    }
    for layer in model.parts.layers:
        if not settings["ignored_params"].issuperset(layer.parameters()):
            fully_shard(layer, **settings)
    fully_shard(model, **settings | {"reshard_after_forward": None})  # The backward pass begins with the same weights.
    if half is not None:
        model.forward = convert_outputs_to_fp32(accelerator.autocast()(model.forward))  # type: ignore[method-assign]


def _computed_once(model: Classifier) -> set[nn.Parameter]:
    """Return what stays whole on every process: the parameters of what never changes and is run before training."""
    if model.encoder_is_frozen:
        return set(model.network.base_model.parameters())
    num_layers = model.num_frozen_layers
    frozen = {EMBEDDINGS, *model.parts.layer_names[:num_layers]} if num_layers else set()
    groups = model.groups
    return {p for name, p in model.network.named_parameters() if groups[name] in frozen}
