"""Scores of a classifier with ordered classes, with bootstrap intervals.

The tests compare every score with scikit-learn (zero_division=0).
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_expit

from nlptl.evaluation import metrics
from nlptl.evaluation.uncertainty import class_indicator, split_counts


def median_class(probabilities: np.ndarray) -> np.ndarray:
    """Return the median class of each row of probabilities [rows, classes]: int64 [rows].

    It is the number of k with P(y > k) > 0.5: the lowest class that minimizes the expected distance in ranks.
    """
    at_least = probabilities[:, ::-1].cumsum(axis=1, dtype=np.float64)[:, ::-1]
    medians: np.ndarray = np.count_nonzero(at_least[:, 1:] > 0.5, axis=1).astype(np.int64)
    return medians


def scale_rank_odds(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the log odds of y > k by `temperature`; return log probabilities [rows, classes].

    This scales the noise of a latent score. P(y > k) stays on its side of 0.5 for every k, so the median class stays
    the same, which it would not if the logits of the classes were scaled.
    """
    above = np.logaddexp.accumulate(log_probabilities[:, ::-1], axis=1)[:, ::-1][:, 1:]  # log P(y > k)
    below = np.logaddexp.accumulate(log_probabilities, axis=1)[:, :-1]  # log P(y <= k)
    odds = (above - below) / temperature
    # A class lies between two odds. If it is improbable, their difference loses its probability to rounding.
    inner = log_probabilities[:, 1:-1]
    gaps = np.logaddexp(0, inner - above[:, 1:]) + np.logaddexp(0, inner - below[:, :-1])
    gaps = np.maximum(gaps, np.finfo(np.float64).tiny) / temperature
    between = log_expit(odds[:, :-1]) + log_expit(-odds[:, 1:]) + np.log(-np.expm1(-gaps))
    return np.concatenate([log_expit(-odds[:, :1]), between, log_expit(odds[:, -1:])], axis=1)


def scorer(
    labels: np.ndarray, probabilities: np.ndarray, *, names: Sequence[str], predictions: np.ndarray | None = None
) -> metrics.Scorer:
    """Return the scorer of predicted ranks and their probabilities.

    Its scores are quadratic_kappa (0 if labels and predictions are all of one class), mae in ranks, accuracy, macro_f1
    over the classes that occur in the labels or the predictions, and log_loss.

    Args:
        labels: True ranks in range(classes), integers [rows].
        probabilities: Floats whose rows sum to 1, [rows, classes].
        names: Label names, the lowest rank first.
        predictions: Predicted ranks, integers [rows]. None: the median classes.

    Raises:
        DataError: If labels and probabilities do not fit each other or `names`, or are not ids and probabilities.
        ConfigError: If `names` repeats a name.

    Source:
        Cohen 1968, Weighted kappa, doi:10.1037/h0026256, with squared distances as weights.
    """
    metrics.check_labels(labels, names)
    metrics.check_probabilities(probabilities, num_rows=len(labels), num_classes=len(names))
    labels, losses = labels.astype(np.int64), metrics.log_loss(labels, probabilities)
    predictions = median_class(probabilities) if predictions is None else predictions
    indicator = class_indicator(labels, predictions, len(names)).astype(np.float64)
    distances = np.abs(labels - predictions)
    of_rows = np.stack([distances**2, distances, losses], axis=1)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        _, support, predicted = counts = split_counts(weights @ indicator)
        squares, distances, losses = (weights @ of_rows).T
        num_rows, by_count = support.sum(axis=-1), metrics.from_counts(*counts)
        return {
            "quadratic_kappa": _quadratic_kappa(squares, support, predicted),
            "mae": distances / num_rows,
            "accuracy": by_count["accuracy"],
            "macro_f1": by_count["macro_f1"],
            "log_loss": losses / num_rows,
        }

    return metrics.Scorer(scores, len(labels), names, indicator)


def _quadratic_kappa(squares: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return 1 - observed / expected squared distance, from the observed sum [...] and counts [..., classes].

    The expected sum of support_i * predicted_j * (i - j)^2 / rows over all i, j is expanded, which needs no memory
    for pairs of classes.
    """
    ranks = np.arange(support.shape[-1], dtype=np.float64)
    num_rows = support.sum(axis=-1)
    means = 2 * (support @ ranks) * (predicted @ ranks) / num_rows
    expected = support @ ranks**2 + predicted @ ranks**2 - means
    return np.where(expected > 0, 1 - metrics.ratio(squares, expected), 0.0)
