"""Each text has one label out of two or more.

A classifier always gives one logit per label. In the sigmoid form of a binary head the first logit is held at zero:
softmax over (0, z) is the sigmoid of z, so that probabilities, saved models and pipelines are as in the softmax form.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from nlptl.config import BinaryLoss, ClassWeights


def example_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    binary_loss: BinaryLoss = "softmax",
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of each example, shape [batch], from logits [batch, labels] and label ids [batch].

    With `binary_loss="sigmoid"` this is the binary cross-entropy of the second logit; otherwise the cross-entropy.
    Label smoothing spreads that share of the target evenly over the labels (Szegedy et al. 2016, arXiv:1512.00567,
    section 7). With `class_weights` [labels], the mean over a batch is the sum of the losses divided by the sum of the
    weights of its labels, as in `torch.nn.functional.cross_entropy`.
    """
    if binary_loss == "sigmoid":
        targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        weight = None if class_weights is None else class_weights[0]
        ratio = None if class_weights is None else class_weights[1] / class_weights[0]
        return F.binary_cross_entropy_with_logits(
            logits[:, 1], targets, weight=weight, pos_weight=ratio, reduction="none"
        )
    return F.cross_entropy(logits, labels, weight=class_weights, reduction="none", label_smoothing=label_smoothing)


def weights_of_classes(setting: ClassWeights, labels: np.ndarray, *, num_labels: int) -> np.ndarray | None:
    """Return the weight of each class, float64 [num_labels], from the setting and the label ids of the training split.

    "balanced" is scikit-learn's: examples / (classes * examples of the class), over the classes there are. None: no
    weights.
    """
    if setting != "balanced":
        return None if setting is None else np.array(setting)
    weights, found = np.ones(num_labels), np.unique(labels)
    weights[found] = compute_class_weight("balanced", classes=found, y=labels)
    return weights


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of each label in float64, shape [batch, labels]."""
    return logits.double().softmax(dim=-1)
