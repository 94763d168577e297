"""Scores of a classifier whose classes have an order, each with the interval that its test set can support.

The semantics are those of scikit-learn with zero_division=0; the tests hold every score against it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_expit

from nlptl.evaluation.metrics import (
    Scores,
    check_labels,
    check_probabilities,
    check_settings,
    from_counts,
    log_loss,
    ratio,
    score_classes,
    shares_of_train,
    with_intervals,
)
from nlptl.evaluation.uncertainty import WeightedScores, class_indicator, resample_sums


def median_class(probabilities: np.ndarray) -> np.ndarray:
    """Return the median class of each row of probabilities [rows, classes]: int64, shape [rows].

    It is the number of k with P(y > k) > 0.5: the class that keeps the expected distance in ranks smallest, the lower
    of two.
    """
    at_least = probabilities[:, ::-1].cumsum(axis=1, dtype=np.float64)[:, ::-1]
    medians: np.ndarray = np.count_nonzero(at_least[:, 1:] > 0.5, axis=1).astype(np.int64)
    return medians


def scale_rank_odds(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return log probabilities [rows, classes] whose log odds of y > k are those given, divided by `temperature`.

    It is what a latent score does whose noise has `temperature` times the scale. P(y > k) stays on its side of 0.5 for
    every k, so that the median class stays, which it would not if the probabilities of classes were scaled.
    """
    above = np.logaddexp.accumulate(log_probabilities[:, ::-1], axis=1)[:, ::-1][:, 1:]  # log P(y > k)
    below = np.logaddexp.accumulate(log_probabilities, axis=1)[:, :-1]  # log P(y <= k)
    odds = (above - below) / temperature
    # Between two odds lies a class, whose probability is lost in their difference where it is small.
    inner = log_probabilities[:, 1:-1]
    gaps = np.logaddexp(0, inner - above[:, 1:]) + np.logaddexp(0, inner - below[:, :-1])
    gaps = np.maximum(gaps, np.finfo(np.float64).tiny) / temperature
    between = log_expit(odds[:, :-1]) + log_expit(-odds[:, 1:]) + np.log(-np.expm1(-gaps))
    return np.concatenate([log_expit(-odds[:, :1]), between, log_expit(odds[:, -1:])], axis=1)


def point_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return the scores of `score_ranks` without intervals: what choosing a model during training needs."""
    labels = labels.astype(np.int64)
    predictions = median_class(probabilities)
    counts = class_indicator(labels, predictions, probabilities.shape[1]).sum(axis=0)
    scores = _from_sums(np.asarray(counts), _row_scores(labels, predictions, probabilities).sum(axis=0))
    return {metric: float(value) for metric, value in scores.items()}


def score_ranks(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    names: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Score probabilities against labels whose ids are ranks; the prediction is the median class.

    All intervals are percentile bootstrap intervals over the rows.

    Args:
        labels: True ids in range(classes), integers, shape [rows].
        probabilities: Floats, each row of sum 1, shape [rows, classes].
        names: Label names in the order of their ids, lowest rank first.
        resamples: Number of bootstrap resamples.
        confidence: Share of the resampled scores inside the interval.
        seed: Seed of the resampling.

    Returns:
        quadratic_kappa (0 where it is undefined: labels and predictions are all of one class), mae in ranks, accuracy,
        macro_f1 over the classes that occur in the labels or the predictions, and log_loss. `per_class` has precision,
        recall and f1 of every class, n being its count in `labels`: NaN where that is 0. Resamples without the class
        are left out of its intervals.

    Raises:
        DataError: If labels and probabilities do not fit each other or `names`, or are not ids and probabilities.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.

    Source:
        Cohen 1968, Weighted kappa, doi:10.1037/h0026256, with squared distances as weights.
    """
    check_settings(names, resamples)
    check_labels(labels, names)
    check_probabilities(probabilities, num_rows=len(labels), num_classes=len(names))
    labels = labels.astype(np.int64)
    predictions = median_class(probabilities)
    indicator = class_indicator(labels, predictions, len(names))
    of_rows = _row_scores(labels, predictions, probabilities)

    counts = np.asarray(indicator.sum(axis=0))
    drawn_counts, drawn_rows = resample_sums([indicator, of_rows], resamples=resamples, seed=seed)
    values, drawn = _from_sums(counts, of_rows.sum(axis=0)), _from_sums(drawn_counts, drawn_rows)
    scores = with_intervals(values, drawn, n=len(labels), confidence=confidence)
    return Scores(scores, per_class=score_classes(_split(counts), _split(drawn_counts), names, confidence))


def weighted_scores(
    labels: np.ndarray, predictions: np.ndarray, losses: np.ndarray, *, num_classes: int
) -> WeightedScores:
    """Return what gives the scores of `score_ranks` for rows that count several times, or not at all.

    The arguments are those of `nlptl.evaluation.metrics.weighted_scores`; ids are ranks.
    """
    indicator = class_indicator(labels, predictions, num_classes).astype(np.float64)
    distances = np.abs(labels - predictions)
    of_rows = np.stack([distances**2, distances, losses], axis=1)
    return lambda weights: _from_sums(weights @ indicator, weights @ of_rows)


def median_class_scores(
    labels: np.ndarray,
    *,
    train_counts: np.ndarray,
    names: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Score the baseline that has read the labels of train and no text.

    It gives each class its share of train as probability, and so predicts the median class of train. A class that train
    lacks counts as half an example, so that its log loss is no artefact of clipping.

    Args:
        labels: True ids in range(classes), integers, shape [rows].
        train_counts: Number of train examples of each class, integers, shape [classes].
        names: Label names in the order of their ids, lowest rank first.
        resamples: Number of bootstrap resamples.
        confidence: Share of the resampled scores inside the interval.
        seed: Seed of the resampling.

    Raises:
        DataError: If `train_counts` does not hold one count for each name, or `labels` no ids of `names`.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    shares = shares_of_train(train_counts, names)
    probabilities = np.broadcast_to(shares, (len(labels), len(names)))  # a view: one row in memory
    return score_ranks(labels, probabilities, names=names, resamples=resamples, confidence=confidence, seed=seed)


def _row_scores(labels: np.ndarray, predictions: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the squared and the absolute distance in ranks and the log loss of each row: float64 [rows, 3]."""
    distances = np.abs(labels - predictions)
    return np.stack([distances**2, distances, log_loss(labels, probabilities)], axis=1)


def _from_sums(counts: np.ndarray, row_sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores, each [...], from counts [..., 3 * classes] and the sums of `_row_scores` [..., 3]."""
    true_positives, support, predicted = _split(counts)
    num_rows = support.sum(axis=-1)
    by_count = from_counts(true_positives, support, predicted)
    return {
        "quadratic_kappa": _quadratic_kappa(row_sums[..., 0], support, predicted),
        "mae": row_sums[..., 1] / num_rows,
        "accuracy": by_count["accuracy"],
        "macro_f1": by_count["macro_f1"],
        "log_loss": row_sums[..., 2] / num_rows,
    }


def _quadratic_kappa(squares: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return 1 - observed / expected squared distance, from the observed sum [...] and counts [..., classes].

    The expected sum, over all pairs i, j of support_i * predicted_j * (i - j)^2 / rows, is multiplied out, so that
    memory does not grow with the square of the classes.
    """
    ranks = np.arange(support.shape[-1], dtype=np.float64)
    num_rows = support.sum(axis=-1)
    means = 2 * (support @ ranks) * (predicted @ ranks) / num_rows
    expected = support @ ranks**2 + predicted @ ranks**2 - means
    return np.where(expected > 0, 1 - ratio(squares, expected), 0.0)


def _split(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    true_positives, support, predicted = np.split(counts, 3, axis=-1)
    return true_positives, support, predicted
