"""Heads without gradient: their tensors are buffers, put there by `nlptl.training.closed_form`, saved like weights."""

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.model.headed_config import HeadedConfig


class LinearHead(nn.Module):
    """Logits that are linear in the features: what logistic regression and the nearest centroid come down to."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, config: HeadedConfig, width: int) -> None:
        super().__init__()
        self.config = config
        num_labels = int(config.num_labels or 0)
        self.register_buffer("weight", torch.zeros(num_labels, width))
        self.register_buffer("bias", torch.zeros(num_labels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, labels] of features [batch, width].

        Raises:
            ConfigError: If nothing was fitted.
        """
        if self.config.num_examples == 0:
            raise ConfigError(
                f"Expected a {self.config.head} head that was fitted, found one that has seen no examples. "
                "Call fit on a Trainer first."
            )
        return F.linear(features, self.weight, self.bias)


def check_tensors(network: PreTrainedModel, folder: Path) -> None:
    """Check the tensors of the fitted head of a `HeadedClassifier` that was loaded from `folder`.

    Raises:
        UntrustedFileError: If they are not finite.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in cast(nn.Module, network.head).buffers()):
        raise UntrustedFileError(
            f"Expected finite numbers in the {network.config.head} head in {folder}, found NaN or infinity. Copy the "
            "folder again."
        )
