"""Each text has one label out of two or more.

A classifier always gives one logit per label. In the sigmoid form of a binary head the first logit is held at zero:
softmax over (0, z) is the sigmoid of z, so that probabilities, saved models and pipelines are as in the softmax form.
"""

import torch
import torch.nn.functional as F

from nlptl.config import BinaryLoss


def example_losses(
    logits: torch.Tensor, labels: torch.Tensor, *, binary_loss: BinaryLoss = "softmax", label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the loss of each example, shape [batch], from logits [batch, labels] and label ids [batch].

    With `binary_loss="sigmoid"` this is the binary cross-entropy of the second logit; otherwise the cross-entropy.
    Label smoothing spreads that share of the target evenly over the labels (Szegedy et al. 2016, arXiv:1512.00567,
    section 7).
    """
    if binary_loss == "sigmoid":
        targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits[:, 1], targets, reduction="none")
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of each label in float64, shape [batch, labels]."""
    return logits.double().softmax(dim=-1)
