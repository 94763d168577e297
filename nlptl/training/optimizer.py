"""Which parameters are updated, by which rule, at which rate."""

import math
from typing import Any

import torch

from nlptl.config import TrainingConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier

LINEAR_HEAD_LEARNING_RATE, DENSE_HEAD_LEARNING_RATE, ENCODER_LEARNING_RATE = 5e-3, 1e-3, 5e-5
"""Peak rates where none is given; for the head, where it trains alone."""


def learning_rates(config: TrainingConfig, *, head_only: bool, is_linear: bool) -> tuple[float, float]:
    """Return the peak learning rates of the encoder and of the head.

    Args:
        config: Where the rates may be given.
        head_only: Whether the head alone trains.
        is_linear: Whether the head is a single layer.

    Raises:
        ConfigError: If the head alone trains and both rates are given, since one of them would be ignored.
    """
    if head_only:
        if config.learning_rate is not None and config.head_learning_rate is not None:
            raise ConfigError(
                "Expected one learning rate, since the encoder is frozen and the head alone trains; found "
                f"learning_rate={config.learning_rate} and head_learning_rate={config.head_learning_rate}. "
                "Pass one of the two."
            )
        given = config.learning_rate if config.head_learning_rate is None else config.head_learning_rate
        if given is None:
            given = LINEAR_HEAD_LEARNING_RATE if is_linear else DENSE_HEAD_LEARNING_RATE
        return given, given
    encoder_rate = ENCODER_LEARNING_RATE if config.learning_rate is None else config.learning_rate
    return encoder_rate, encoder_rate if config.head_learning_rate is None else config.head_learning_rate


def build_optimizer(model: Classifier, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters that train: head and encoder, with and without weight decay.

    Vectors (biases, the scales of norms) get no weight decay. Each group keeps its peak rate as `peak_lr`.
    """
    encoder_rate, head_rate = learning_rates(config, head_only=model.trains_head_only, is_linear=model.head_is_linear)
    default_decay = 0.01 if config.optimizer == "adamw" else 0.0
    decay = default_decay if config.weight_decay is None else config.weight_decay
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:
            is_head, decays = name in model.head_names, parameter.ndim > 1
            rate = head_rate if is_head else encoder_rate
            group = {"params": [], "peak_lr": rate, "lr": rate, "weight_decay": decay if decays else 0.0}
            groups.setdefault((is_head, decays), group)["params"].append(parameter)
    if config.optimizer == "sgd":
        return torch.optim.SGD(list(groups.values()), lr=head_rate, momentum=0.9, fused=True)
    rule = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return rule(list(groups.values()), lr=head_rate, fused=True)


def rate_multiplier(step: int, *, num_steps: int, warmup_ratio: float, schedule: str) -> float:
    """Return the share of the peak learning rate in optimizer step `step`, counted from 0.

    Equal to the schedules of `transformers.get_scheduler` with `warmup_ratio * num_steps` warmup steps, rounded up
    but never all of them: with a linear warmup the first step has rate zero, and an only step has to learn something.
    """
    warmup = min(math.ceil(warmup_ratio * num_steps), num_steps - 1)
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, num_steps - warmup)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
