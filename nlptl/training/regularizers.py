"""R-Drop: two passes with different dropout should agree."""

import torch
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier


def symmetric_divergence(logits_a: torch.Tensor, logits_b: torch.Tensor) -> torch.Tensor:
    """Return (KL(a || b) + KL(b || a)) / 2 of each row, shape [rows], from the logits [rows, labels] of two passes.

    R-Drop adds it to the losses of two passes with different dropout (Liang et al. 2021, arXiv:2106.14448, eq. 2).
    """
    log_a, log_b = logits_a.log_softmax(dim=-1), logits_b.log_softmax(dim=-1)
    # Both factors of a term have the same sign, so that rounding gives no negative divergence.
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(dim=-1) / 2


def check_r_drop(model: Classifier, config: TrainingConfig) -> None:
    """Refuse R-Drop if two passes of `model` in training would be the same.

    Raises:
        ConfigError: If nothing that trains has dropout.
    """
    if config.r_drop == 0:
        return
    was_training = model.training
    model.train()  # frozen parts stay in eval mode
    has_dropout = any(isinstance(module, nn.Dropout) and module.training and module.p > 0 for module in model.modules())
    model.train(was_training)
    if not has_dropout:
        raise ConfigError(
            "--r-drop compares two passes with different dropout, but nothing that trains has dropout. Pass --dropout "
            "0.1, or leave --r-drop out."
        )
