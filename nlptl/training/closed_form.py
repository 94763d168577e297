"""Fits the heads that scikit-learn knows how to fit, and puts what it found into tensors of the model."""

import logging
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from nlptl.config import ClassWeights
from nlptl.errors import ConfigError, DataError
from nlptl.model.classifier import Classifier
from nlptl.model.seeding import one_at_a_time
from nlptl.tasks.single_label import weights_of_classes

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 1000
UNSEEN = -1e30
"""Logit of a label that no example has: below all others, and finite, as all weights that are loaded have to be."""


def fit_head(
    model: Classifier, features: torch.Tensor, labels: np.ndarray, *, class_weights: ClassWeights = None
) -> None:
    """Fit the head of `model`, "logistic" or "centroid", to features and labels, in place.

    Args:
        model: A classifier whose `head_is_fitted`.
        features: What the head reads of each example, shape [examples, width].
        labels: Label ids, shape [examples].
        class_weights: Weights of the classes, for a logistic head.

    Raises:
        ConfigError: If the encoder is not frozen.
        DataError: If all examples have the same label, or, for centroids, the same features.
    """
    if not model.encoder_is_frozen:
        raise ConfigError(
            f"Expected a frozen encoder below a {model.head.head} head, found one that trains. "
            "Pass --freeze encoder (freeze= in Python)."
        )
    found = np.unique(labels)
    if len(found) < 2:
        names = [model.labels.names[i] for i in found]
        raise DataError(f"Expected examples of two or more labels, found only {names}. Pass more examples.")
    if model.head.head == "logistic":
        weights = weights_of_classes(class_weights, labels, num_labels=len(model.labels))
        weight, bias = _fit_logistic(model, features.cpu().numpy(), labels, weights)
    else:
        weight, bias = _fit_centroids(features.cpu().numpy(), labels)
    _set_linear(model, found, weight, bias)
    model.network.config.num_examples = len(labels)


def _fit_logistic(
    model: Classifier, features: np.ndarray, labels: np.ndarray, class_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    strength = model.head.inverse_regularization
    regression = LogisticRegression(
        C=1.0 if strength is None else strength,
        max_iter=MAX_ITERATIONS,
        class_weight=None if class_weights is None else {i: class_weights[i] for i in np.unique(labels)},
    )
    with one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(features, labels)
    if regression.n_iter_.max() >= MAX_ITERATIONS:
        logger.warning(
            "logistic head: stopped after %d iterations before it converged; lower inverse_regularization",
            MAX_ITERATIONS,
        )
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two labels: the logits are (0, z)
        return np.concatenate([weight * 0, weight]), np.concatenate([bias * 0, bias])
    return weight, bias


def _fit_centroids(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of Gaussian densities around the centroids, short of what all labels have in common.

    The densities have the same variance in all directions, that within classes along the lines through the centroids
    and their center. The largest is that of the nearest centroid, which is what scikit-learn's NearestCentroid
    predicts. (Its `predict_proba` scales each feature on its own: the most probable label can be another than it
    predicts.)
    """
    if not np.ptp(features, axis=0).any():
        raise DataError(f"Expected texts that differ, found {len(labels)} with the same features. Pass other texts.")
    with one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features without variance within classes, which only predict_proba uses
        centroids = NearestCentroid().fit(features, labels).centroids_
    center = centroids.mean(axis=0)
    lines = centroids - center
    spread = np.square((features - centroids[np.unique(labels, return_inverse=True)[1]]) @ lines.T).sum()
    degrees = (len(labels) - len(centroids)) * np.square(lines).sum()
    # One example of each label has no variance, and one centroid for all of them no lines.
    variance = spread / degrees if spread > 0 and degrees > 0 else 1.0
    weight = lines / variance
    return weight, -((centroids + center) * weight).sum(axis=1) / 2


def _set_linear(model: Classifier, found: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> None:
    head = model.network.head
    head.weight.zero_()
    head.bias.fill_(UNSEEN)
    index = torch.as_tensor(found, device=head.weight.device)
    head.weight[index] = torch.as_tensor(weight).to(head.weight)
    head.bias[index] = torch.as_tensor(bias).to(head.bias)
