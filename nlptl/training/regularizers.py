"""Regularizers for fine-tuning a large encoder on little data: what R-Drop computes, and checks of the settings."""

import torch
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.errors import ConfigError


def symmetric_divergence(logits_a: torch.Tensor, logits_b: torch.Tensor) -> torch.Tensor:
    """Return (KL(a || b) + KL(b || a)) / 2 for each row of two passes, shape [rows], from logits [rows, labels].

    What R-Drop adds to the losses of two passes with different dropout (Liang et al. 2021, arXiv:2106.14448, eq. 2).
    """
    log_a, log_b = logits_a.log_softmax(dim=-1), logits_b.log_softmax(dim=-1)
    # Both factors of a term have the same sign, so that rounding gives no negative divergence.
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(dim=-1) / 2


def has_active_dropout(network: nn.Module) -> bool:
    """Return whether two passes of `network`, in the mode it is in, differ by dropout."""
    return any(isinstance(module, nn.Dropout) and module.training and module.p > 0 for module in network.modules())


def check_regularizers(config: TrainingConfig, *, trains_encoder: bool, has_dropout: bool, has_adapters: bool) -> None:
    """Refuse regularizers that would change nothing.

    Args:
        config: The settings of the training.
        trains_encoder: Whether any of the encoder's own weights trains, at some time of the training.
        has_dropout: Whether two passes in training differ by dropout.
        has_adapters: Whether low-rank updates train in place of the encoder's weights.

    Raises:
        ConfigError: If a regularizer cannot apply to what trains; all of them are named in one message.
    """
    problems = []
    if config.wise_ft is not None and not trains_encoder:
        way_out = "Leave --lora-rank out" if has_adapters else "Pass --freeze nothing without --train-only"
        found = "low-rank updates in their place" if has_adapters else "all of them frozen"
        problems.append(
            f"Expected pretrained weights of the encoder that train for --wise-ft, found {found}. {way_out}, or leave "
            "--wise-ft out."
        )
    if config.r_drop > 0 and not has_dropout:
        problems.append(
            "Expected dropout in what trains for --r-drop, which compares two passes, found none. Pass --dropout 0.1, "
            "or leave --r-drop out."
        )
    if problems:
        raise ConfigError(" ".join(problems))
