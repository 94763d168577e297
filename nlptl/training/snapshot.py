"""Capture the state of a training for a checkpoint, and restore it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from nlptl.errors import UntrustedFileError
from nlptl.training.checkpoint import Checkpoint


@dataclass
class State:
    """The progress of a training: with the weights and the optimizer's state, all that resuming needs."""

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    is_stopped: bool = False
    loss_sum: float = 0.0  # of the steps since the last evaluation
    num_losses: int = 0
    micro_batch_tokens: int | None = None  # the size that fits, if memory has run out
    kept: list[list[int]] = field(default_factory=list)  # steps of the newest checkpoints, each with that of its best

    def observe(self, value: float, *, lower_is_better: bool, patience: int | None) -> bool:
        """Record the score after `step`, and return whether it is the best so far. A tie or NaN is not."""
        sign = -1 if lower_is_better else 1
        is_best = math.isfinite(value) and (self.best_value is None or sign * value > sign * self.best_value)
        if is_best:
            self.best_step, self.best_value = self.step, value
        self.evaluations_since_best = 0 if is_best else self.evaluations_since_best + 1
        self.is_stopped = patience is not None and self.evaluations_since_best >= patience
        return is_best


def capture(
    network: nn.Module, names: frozenset[str], optimizer: torch.optim.Optimizer, state: State, *, scaler: Any
) -> Checkpoint:
    """Return the checkpoint of a training, with the optimizer's state as tensors named `parameter name//key`.

    Args:
        network: Encoder and head.
        names: The parameters that train.
        optimizer: Their optimizer.
        state: The progress of the training.
        scaler: The gradient scaler of fp16, or None.
    """
    name_of = names_by_id(network)
    of_optimizer = {
        f"{name_of[id(parameter)]}//{key}": value.detach().cpu().contiguous()
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    scale = None if scaler is None else scaler.state_dict()
    return Checkpoint(trained_tensors(network, names), of_optimizer, {**asdict(state), "scaler": scale})


def restore_weights(checkpoint: Checkpoint, network: nn.Module, names: frozenset[str], scaler: Any) -> State:
    """Restore the weights of a checkpoint, and return the progress of its training.

    Raises:
        UntrustedFileError: If the checkpoint does not fit this training.
    """
    values = dict(checkpoint.state)
    scale = values.pop("scaler", None)
    try:
        state = State(**values)
    except TypeError as error:
        raise UntrustedFileError(
            f"The checkpoint has an unknown state ({', '.join(sorted(values))}). Use the version of nlptl that wrote "
            "it, or start a new run."
        ) from error
    load_tensors(network, names, checkpoint.weights)
    if scaler is not None and scale is not None:
        scaler.load_state_dict(scale)
    return state


def trained_tensors(network: nn.Module, names: frozenset[str]) -> dict[str, torch.Tensor]:
    """Return the parameters `names` on the CPU, without copying those that are there already."""
    return {n: p.detach().cpu().contiguous() for n, p in network.named_parameters() if n in names}


def load_tensors(network: nn.Module, names: frozenset[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy `tensors` into the parameters `names`.

    Raises:
        UntrustedFileError: If names or shapes differ.
    """
    trained = {name: p for name, p in network.named_parameters() if name in names}
    different = list(trained.keys() ^ tensors.keys())
    different += [name for name in trained.keys() & tensors.keys() if trained[name].shape != tensors[name].shape]
    if different:
        raise UntrustedFileError(
            f"The checkpoint has {len(tensors)} tensors for {len(trained)} that train; {len(different)} are missing, "
            f"unknown or of another shape, such as {min(different)}. Resume with the settings of the run, such as "
            "freeze, or start a new run."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            trained[name].copy_(tensor)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], names: Mapping[int, str]
) -> None:
    """Load the optimizer's state of a checkpoint; `names` maps the id of a parameter to its name.

    Raises:
        UntrustedFileError: If it is the state of other parameters than those of the optimizer.
    """
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("//")
        by_name.setdefault(name, {})[field] = tensor.clone()
    wanted = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    if set(wanted) != by_name.keys():
        raise UntrustedFileError(
            f"The checkpoint has the optimizer's state of {len(by_name)} tensors for {len(wanted)} that train; they "
            f"differ in {min(set(wanted) ^ by_name.keys())}. Resume with the settings of the run, such as freeze, or "
            "start a new run."
        )
    packed = optimizer.state_dict()
    packed["state"] = {i: by_name[name] for i, name in enumerate(wanted)}
    optimizer.load_state_dict(packed)


def names_by_id(network: nn.Module) -> dict[int, str]:
    """Return the name of each parameter of `network` by its id."""
    return {id(parameter): name for name, parameter in network.named_parameters()}
