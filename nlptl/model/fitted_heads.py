"""Heads without gradient: their tensors are buffers, put there by `nlptl.training.closed_form`, saved like weights."""

from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.model.headed_config import HeadedConfig

ENTRIES_AT_ONCE = 4_000_000
"""Distances that are held at once; in float64, 32 MB."""


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
        _check_is_fitted(self.config)
        return F.linear(features, self.weight, self.bias)


class NeighborsHead(nn.Module):
    """Each of the `neighbors` nearest examples has a vote; logits are the logarithms of the shares of the votes.

    Of examples that are equally far, the first ones vote; which of them vote in scikit-learn depends on its number of
    threads. A label without a vote has the smallest share that float64 can add to 1, so that every loss is finite.
    """

    examples: torch.Tensor
    labels: torch.Tensor

    def __init__(self, config: HeadedConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("examples", torch.zeros(config.num_examples, width))
        self.register_buffer("labels", torch.zeros(config.num_examples, dtype=torch.long))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, labels] of features [batch, width].

        Raises:
            ConfigError: If nothing was fitted.
        """
        _check_is_fitted(self.config)
        precise = torch.float32 if features.device.type == "mps" else torch.float64  # mps has no float64
        examples = self.examples.to(precise)
        one_hot = F.one_hot(self.labels, int(self.config.num_labels or 0)).to(precise)
        norms = examples.square().sum(dim=1)
        parts = [
            # Squared distances, short of the same number in each row.
            self._votes(torch.addmm(norms, part, examples.T, alpha=-2)) @ one_hot
            for part in features.to(precise).split(max(1, ENTRIES_AT_ONCE // len(examples)))
        ]
        shares = torch.cat(parts) / self.config.neighbors
        return shares.clamp(min=torch.finfo(torch.float64).eps).log().to(features.dtype)

    def _votes(self, distances: torch.Tensor) -> torch.Tensor:
        """Return 1 for each of the nearest examples, 0 for the others, from distances [batch, examples]."""
        count = self.config.neighbors
        farthest = distances.topk(count, dim=1, largest=False).values[:, -1:]
        closer, equal = distances < farthest, distances == farthest
        first_equal = equal & (equal.cumsum(dim=1) <= count - closer.sum(dim=1, keepdim=True))
        return (closer | first_equal).to(distances.dtype)


def check_tensors(network: PreTrainedModel, folder: Path) -> None:
    """Check the tensors of the fitted head of a `HeadedClassifier` that was loaded from `folder`.

    Raises:
        UntrustedFileError: If they are not finite, or no label ids, or fewer examples than are to vote.
    """
    head, config = cast(nn.Module, network.head), network.config
    is_sound = all(bool(torch.isfinite(tensor).all()) for tensor in head.buffers())
    if isinstance(head, NeighborsHead) and len(head.labels):
        ids = range(int(config.num_labels or 0))
        is_sound &= int(head.labels.min()) in ids and int(head.labels.max()) in ids
        is_sound &= 1 <= config.neighbors <= len(head.labels)
    if not is_sound:
        raise UntrustedFileError(
            f"Expected finite numbers, known label ids and as many examples as neighbors or more in the "
            f"{config.head} head in {folder}, found something else. Copy the folder again."
        )


def _check_is_fitted(config: HeadedConfig) -> None:
    if config.num_examples == 0:
        raise ConfigError(
            f"Expected a {config.head} head that was fitted, found one that has seen no examples. "
            "Call fit on a Trainer first."
        )
