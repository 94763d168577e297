"""Fit heads with scikit-learn, and copy the results into the model."""

import logging
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from nlptl.config import ClassWeights
from nlptl.errors import DataError
from nlptl.model.classifier import Classifier
from nlptl.model.seeding import one_at_a_time
from nlptl.tasks.single_label import weights_of_classes

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 1000
UNSEEN = -1e30
"""Logit of a label without examples: below all others, but finite, as loaded weights must be."""


def fit_head(
    model: Classifier, features: torch.Tensor, labels: np.ndarray, *, class_weights: ClassWeights = None
) -> None:
    """Fit the head of `model`, "logistic" or "centroid", to features and labels, in place.

    Args:
        model: A classifier whose `head_is_fitted`, with a frozen encoder.
        features: Features of the examples [examples, width].
        labels: Label ids [examples].
        class_weights: Weights of the classes, for a logistic head only.

    Raises:
        DataError: If all examples have the same label, or, for centroids, the same features.
    """
    found = np.unique(labels)
    if len(found) < 2:
        names = [model.labels.names[i] for i in found]
        raise DataError(f"All examples have the same label ({names[0]}). Pass examples of two labels or more.")
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
        what = "the logistic head did not converge in %d iterations; lower inverse_regularization"
        logger.warning(what, MAX_ITERATIONS)
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two labels: the logits are (0, z)
        return np.concatenate([weight * 0, weight]), np.concatenate([bias * 0, bias])
    return weight, bias


def _fit_centroids(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and biases of the log densities of Gaussians around the centroids, up to a common constant.

    The Gaussians share one variance: that within classes along the lines from the center to the centroids. The nearest
    centroid has the largest density, so that labels are those of scikit-learn's NearestCentroid. (Its `predict_proba`
    scales every feature, so that the most probable label may differ from its prediction.)
    """
    if not np.ptp(features, axis=0).any():
        raise DataError(f"All {len(labels)} texts have the same features. Pass texts that differ.")
    with one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant features within classes matter only to predict_proba
        centroids = NearestCentroid().fit(features, labels).centroids_
    center = centroids.mean(axis=0)
    lines = centroids - center
    spread = np.square((features - centroids[np.unique(labels, return_inverse=True)[1]]) @ lines.T).sum()
    degrees = (len(labels) - len(centroids)) * np.square(lines).sum()
    # With one example per label there is no variance, and with equal centroids there are no lines.
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
