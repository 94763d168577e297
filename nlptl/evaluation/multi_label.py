"""Scores of a multi-label classifier, with bootstrap intervals.

The tests compare every score with scikit-learn (zero_division=0).
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from nlptl.errors import DataError
from nlptl.evaluation import metrics
from nlptl.evaluation.uncertainty import split_counts


def scorer(
    targets: np.ndarray, probabilities: np.ndarray, *, predicted: np.ndarray, names: Sequence[str]
) -> metrics.Scorer:
    """Return the scorer of predicted sets of labels and their probabilities.

    Its scores are average_precision over all cells (micro; 0 if no row has a label), which depends only on the
    probabilities, micro_f1, macro_f1 (over all labels), micro_precision, micro_recall, samples_f1 (mean over rows; 0
    for a row without true and predicted labels), subset_accuracy, hamming_loss and log_loss (mean binary cross-entropy
    over all cells).

    Args:
        targets: Whether each row has each label, bool or integers 0 and 1, [rows, labels].
        probabilities: Floats from 0 to 1, same shape.
        predicted: Whether each label is predicted for each row, bool, same shape.
        names: Label names in the order of their ids.

    Raises:
        DataError: If targets, probabilities, predictions and names do not fit each other.
        ConfigError: If `names` repeats a name.
    """
    _check(targets, probabilities, names)
    if predicted.shape != targets.shape or predicted.dtype != bool:
        raise DataError(
            f"Expected predictions as bool of shape {list(targets.shape)}, that of the targets, found "
            f"{predicted.dtype} of shape {list(predicted.shape)}. Pass probabilities >= thresholds."
        )
    targets = targets.astype(bool)
    of_rows = _row_scores(targets, predicted, probabilities)
    average_precision = _average_precision(targets, probabilities)
    parts = (targets & predicted, targets, predicted)
    indicator = sparse.hstack([sparse.csr_array(part, dtype=np.float64) for part in parts], format="csr")

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = split_counts(weights @ indicator)
        micro = metrics.class_scores(*(count.sum(axis=-1) for count in counts))
        means = weights @ of_rows / weights.sum(axis=1, keepdims=True)
        return {
            "average_precision": average_precision(weights),
            "micro_f1": micro["f1"],
            "macro_f1": metrics.class_scores(*counts)["f1"].mean(axis=-1),
            "micro_precision": micro["precision"],
            "micro_recall": micro["recall"],
            **dict(zip(("samples_f1", "subset_accuracy", "hamming_loss", "log_loss"), means.T, strict=True)),
        }

    return metrics.Scorer(scores, len(targets), names, indicator)


def cell_losses(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the binary cross-entropy of each cell in nats, float64 [rows, labels].

    Probabilities are clipped as in `nlptl.evaluation.metrics.log_loss`. `targets` are bool, or 0 and 1.
    """
    eps = np.finfo(probabilities.dtype).eps
    of_target = np.clip(np.where(targets, probabilities, 1 - probabilities), eps, 1 - eps)
    losses: np.ndarray = -np.log(of_target, dtype=np.float64)
    return losses


def tune_thresholds(targets: np.ndarray, probabilities: np.ndarray, *, metric: str = "f1") -> np.ndarray:
    """Return the threshold of each label with the best score on these rows, float64 [labels].

    A threshold is the midpoint between neighbouring probabilities of the label, or between an outermost one and 0 or 1,
    and strictly inside (0, 1). Of several best ones it is the one nearest to 0.5; a label without rows gets 0.5. The
    scores at tuned thresholds are optimistic: score the model on other rows.

    Args:
        targets: Whether each row has each label, bool or integers 0 and 1, [rows, labels].
        probabilities: Floats from 0 to 1, same shape.
        metric: "f1" of the label; "accuracy", "matthews" or "macro_f1" of the label and its absence.

    Raises:
        DataError: If targets and probabilities do not fit each other.

    Source:
        Lipton, Elkan and Naryanaswamy 2014, Thresholding Classifiers to Maximize F1 Score, arXiv:1402.1892.
    """
    _check(targets, probabilities)
    columns = zip(targets.T.astype(bool), probabilities.T.astype(np.float64), strict=True)
    return np.array([_best_threshold(*column, metric) if column[0].any() else 0.5 for column in columns])


def _average_precision(targets: np.ndarray, probabilities: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from weights to the average precision over all cells (micro).

    It is the mean of the precisions at each threshold, weighted by the recall gained there, so only the probabilities
    of true labels matter as thresholds. `targets` is bool; both arrays have shape [rows, labels].
    """
    order = np.argsort(-probabilities, axis=None, kind="stable")
    rows, hits = order // targets.shape[1], targets.ravel()[order]
    values = probabilities.ravel()[order]
    level = np.cumsum(np.diff(values, prepend=values[0]) != 0)  # equal probabilities share a level
    has_hits = np.bincount(level, weights=hits) > 0
    # The index of the highest threshold that each cell reaches.
    threshold: np.ndarray = (np.cumsum(has_hits) - has_hits)[level]
    shape = (len(targets), int(has_hits.sum()))

    def counts(chosen: np.ndarray) -> sparse.csr_array:
        cells = (np.ones(int(chosen.sum())), (rows[chosen], threshold[chosen]))
        return sparse.csr_array(cells, shape=shape)  # adds up the cells of a row at one threshold

    of_true, of_all = counts(hits), counts(threshold < shape[1])

    def scores(weights: np.ndarray) -> np.ndarray:
        gained = weights @ of_true
        true_positives, predicted = gained.cumsum(axis=1), (weights @ of_all).cumsum(axis=1)
        return metrics.ratio((gained * metrics.ratio(true_positives, predicted)).sum(axis=1), gained.sum(axis=1))

    return scores


def _row_scores(targets: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return F1, whether all labels are right, the fraction of wrong ones and the log loss of each row, [rows, 4].

    `targets` and `predicted` are bool [rows, labels].
    """
    wrong = targets != predicted
    f1 = metrics.ratio(2 * (targets & predicted).sum(axis=1), targets.sum(axis=1) + predicted.sum(axis=1))
    losses = cell_losses(targets, probabilities).mean(axis=1)
    return np.stack([f1, ~wrong.any(axis=1), wrong.mean(axis=1), losses], axis=1)


def _best_threshold(targets: np.ndarray, probabilities: np.ndarray, metric: str) -> float:
    """Return the best threshold of one label, which one row or more has; both arrays have shape [rows]."""
    values, column = np.unique(probabilities, return_inverse=True)
    # A candidate predicts the rows at or above its upper neighbour; the last one predicts none.
    lower, upper = np.append(0.0, values), np.append(values, 1.0)
    candidates = (lower + upper) / 2
    # The midpoint of adjacent floats rounds to one of them, and must be the upper one.
    candidates = np.where(candidates > lower, candidates, upper)
    predicted = np.append(np.bincount(column)[::-1].cumsum()[::-1], 0)
    true_positives = np.append(np.bincount(column, weights=targets)[::-1].cumsum()[::-1], 0)
    scores = _threshold_scores(true_positives, predicted, int(targets.sum()), len(targets), metric)
    inside = (candidates > 0) & (candidates < 1)
    best = candidates[inside & (scores == scores[inside].max())]
    return float(best[np.abs(best - 0.5).argmin()])


def _threshold_scores(
    true_positives: np.ndarray, predicted: np.ndarray, positives: int, num_rows: int, metric: str
) -> np.ndarray:
    """Return the score of each candidate, from its numbers of predictions and of true positives."""
    if metric == "f1":
        return np.asarray(2 * true_positives / (predicted + positives))
    true_negatives = num_rows - predicted - positives + true_positives
    support = np.broadcast_to([num_rows - positives, positives], (len(predicted), 2))
    predictions = np.stack([num_rows - predicted, predicted], axis=1)
    return metrics.from_counts(np.stack([true_negatives, true_positives], axis=1), support, predictions)[metric]


def _check(targets: np.ndarray, probabilities: np.ndarray, names: Sequence[str] | None = None) -> None:
    columns = f" for {len(names)} names" if names is not None else ""
    fits = targets.ndim == 2 and (names is None or targets.shape[1] == len(names))
    is_integer = targets.dtype == bool or np.issubdtype(targets.dtype, np.integer)
    if not fits or not is_integer or not np.all((targets >= 0) & (targets <= 1)):
        raise DataError(
            f"Expected targets of 0 and 1 as bool or integers of shape [rows, labels]{columns}, found {targets.dtype} "
            f"of shape {list(targets.shape)}. Pass one row for each text and one column for each label."
        )
    metrics.check_rows(targets)
    metrics.check_like(probabilities, targets, "probabilities")
    wrong = np.flatnonzero(~np.all((probabilities >= 0) & (probabilities <= 1), axis=1))  # also NaN
    if len(wrong):
        row = probabilities[wrong[0]]
        raise DataError(
            f"Expected probabilities from 0 to 1, found {row.min():.4g} to {row.max():.4g} in row {wrong[0]}. Pass the "
            "sigmoid of the logits. If it is NaN, the model diverged: lower the learning rate, or train in float32."
        )
