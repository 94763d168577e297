"""Optimizers, learning rates and weight decays."""

import math
from typing import Any

import torch

from nlptl.config import TrainingConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.freezing import depths_below_top
from nlptl.model.parts import HEAD

LINEAR_HEAD_LEARNING_RATE, DENSE_HEAD_LEARNING_RATE = 5e-3, 1e-3
"""Default peak learning rates of a head that trains alone."""
ENCODER_LEARNING_RATE, FEW_PARAMETERS_LEARNING_RATE = 5e-5, 5e-4
"""Default peak learning rates if the encoder trains; the second one for norms, biases and low-rank updates."""


def check_rates(config: TrainingConfig, *, head_only: bool) -> None:
    """Refuse learning rates and weight decays that would have no effect.

    Raises:
        ConfigError: If only the head trains and one of them is given for the encoder too.
    """
    if not head_only:
        return
    if config.layer_decay != 1:
        raise ConfigError(
            f"layer_decay={config.layer_decay} has no effect, since the encoder is frozen. Pass --freeze nothing, or a "
            "number of layers (freeze= in Python), or leave --layer-decay out."
        )
    for name in ("learning_rate", "weight_decay"):
        value, of_head = getattr(config, name), getattr(config, f"head_{name}")
        if value is not None and of_head is not None:
            raise ConfigError(
                f"The encoder is frozen and only the head trains: {name}={value} and head_{name}={of_head} contradict "
                "each other. Pass one of the two."
            )


def learning_rates(model: Classifier, config: TrainingConfig, *, before_encoder: bool = False) -> dict[str, float]:
    """Return the peak learning rate of each group of `model`, also of frozen ones.

    The top layer and everything above it have the encoder's rate, and each lower layer has `layer_decay` times the rate
    of the layer above it; the embeddings are the lowest (Howard and Ruder 2018, section 3.2; Clark et al. 2020).

    Args:
        model: The model, frozen as in this stage of the training.
        config: The settings of the training.
        before_encoder: Whether the encoder trains in a later stage; learning_rate is then only for that stage.
    """
    if model.trains_head_only:
        given = (config.head_learning_rate, None if before_encoder else config.learning_rate)
        default = LINEAR_HEAD_LEARNING_RATE if model.head_is_linear else DENSE_HEAD_LEARNING_RATE
        head_rate = next((rate for rate in given if rate is not None), default)
        return dict.fromkeys(model.parts.group_names, head_rate)
    trains_few = model.has_adapters or model.transfer.train_only is not None
    default = FEW_PARAMETERS_LEARNING_RATE if trains_few else ENCODER_LEARNING_RATE
    rate = default if config.learning_rate is None else config.learning_rate
    rates = {name: rate * config.layer_decay ** max(depth, 0) for name, depth in depths_below_top(model.parts).items()}
    return rates | {HEAD: rate if config.head_learning_rate is None else config.head_learning_rate}


def weight_decays(model: Classifier, config: TrainingConfig) -> dict[str, float]:
    """Return the weight decay of the matrices in each group of `model`."""
    default = 0.01 if config.optimizer == "adamw" else 0.0
    decay = default if config.weight_decay is None else config.weight_decay
    head_decay = decay if config.head_weight_decay is None else config.head_weight_decay
    return dict.fromkeys(model.parts.group_names, decay) | {HEAD: head_decay}


def build_optimizer(
    model: Classifier, config: TrainingConfig, *, before_encoder: bool = False
) -> torch.optim.Optimizer:
    """Return an optimizer for the parameters that train.

    Biases and norms have no weight decay. Each parameter group has its peak learning rate as `peak_lr`.
    """
    rates, decays = learning_rates(model, config, before_encoder=before_encoder), weight_decays(model, config)
    names = model.groups
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:
            part, is_matrix = names[name], parameter.ndim > 1
            rate, decay = rates[part], decays[part] if is_matrix else 0.0
            group = {"params": [], "peak_lr": rate, "lr": rate, "weight_decay": decay}
            groups.setdefault((part, is_matrix), group)["params"].append(parameter)
    if config.optimizer == "sgd":
        return torch.optim.SGD(list(groups.values()), lr=rates[HEAD], momentum=0.9, fused=True)
    rule = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return rule(list(groups.values()), lr=rates[HEAD], fused=True)


def rate_multiplier(step: int, *, num_steps: int, warmup_ratio: float, schedule: str) -> float:
    """Return the factor on the peak learning rate in optimizer step `step`, counted from 0.

    Equal to the schedules of `transformers.get_scheduler` with `warmup_ratio * num_steps` warmup steps, rounded up. At
    least one step comes after the warmup: the first step of a warmup has rate zero, so a single step would not learn.
    """
    warmup = min(math.ceil(warmup_ratio * num_steps), num_steps - 1)
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, num_steps - warmup)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
