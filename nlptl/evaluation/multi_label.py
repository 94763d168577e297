"""Scores of a classifier that gives each text any number of labels, each with the interval its test set can support.

The semantics are those of scikit-learn with zero_division=0; the tests hold every score against it.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from nlptl.errors import DataError
from nlptl.evaluation.metrics import (
    Scores,
    check_settings,
    class_scores,
    from_counts,
    ratio,
    score_classes,
    with_intervals,
)
from nlptl.evaluation.uncertainty import WeightedScores, resample_sums

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]


def point_scores(targets: np.ndarray, probabilities: np.ndarray, *, thresholds: np.ndarray) -> dict[str, float]:
    """Return scores without intervals: what choosing a model during training needs.

    Args:
        targets: Whether each row has each label, bool or integers 0 and 1, shape [rows, labels].
        probabilities: Floats from 0 to 1, same shape.
        thresholds: A label is predicted where its probability is this or more, shape [labels].

    Returns:
        The scores of `score_label_sets`, and average_precision over all cells, which needs no threshold: 0 where no row
        has a label.

    Raises:
        DataError: If targets, probabilities and thresholds do not fit each other.
    """
    _check(targets, probabilities)
    _check_thresholds(thresholds, num_labels=targets.shape[1])
    targets = targets.astype(bool)
    predicted = probabilities >= thresholds
    counts = _split(np.hstack(_cells(targets, predicted)).sum(axis=0))
    scores = _from_sums(counts, _row_scores(targets, predicted, probabilities).sum(axis=0), len(targets))
    return {
        **{metric: float(value) for metric, value in scores.items()},
        "average_precision": _average_precision(targets, probabilities),
    }


def score_label_sets(
    targets: np.ndarray,
    probabilities: np.ndarray,
    *,
    thresholds: np.ndarray,
    names: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Score probabilities against sets of labels; a label is predicted where its probability reaches its threshold.

    All intervals are percentile bootstrap intervals over the rows.

    Args:
        targets: Whether each row has each label, bool or integers 0 and 1, shape [rows, labels].
        probabilities: Floats from 0 to 1, same shape.
        thresholds: Floats, shape [labels].
        names: Label names in the order of their ids.
        resamples: Number of bootstrap resamples.
        confidence: Share of the resampled scores inside the interval.
        seed: Seed of the resampling.

    Returns:
        micro_f1, macro_f1 (the mean over all labels), micro_precision, micro_recall, samples_f1 (the mean over rows; 0
        for a row with neither true nor predicted labels), subset_accuracy, hamming_loss and log_loss (the mean binary
        cross-entropy over all cells). `per_class` has precision, recall and f1 of every label, n being the rows that
        have it: NaN where there are none. Resamples without such a row are left out of its intervals.

    Raises:
        DataError: If targets, probabilities, thresholds and names do not fit each other.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    _check(targets, probabilities, names)
    _check_thresholds(thresholds, num_labels=len(names))
    return _score(
        targets.astype(bool),
        probabilities >= thresholds,
        probabilities,
        names=names,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def weighted_scores(targets: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> WeightedScores:
    """Return what gives the scores of `score_label_sets` for rows that count several times, or not at all.

    Args:
        targets: Whether each row has each label, bool, shape [rows, labels].
        predicted: Whether it is predicted, bool, same shape.
        probabilities: Floats from 0 to 1, same shape.
    """
    of_rows, cells = _row_scores(targets, predicted, probabilities), _sparse_cells(targets, predicted)
    return lambda weights: _from_sums(_split(weights @ cells), weights @ of_rows, weights.sum(axis=1))


def frequent_label_scores(
    targets: np.ndarray,
    *,
    train_shares: np.ndarray,
    names: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Score the baseline that has read the labels of train and no text.

    It predicts the most frequent label of train, the first one where several are, for every row, and gives each label
    its share of the rows of train as probability. The log loss of a label with a share of 0 or 1 is one of clipping.

    Args:
        targets: Whether each row has each label, bool or integers 0 and 1, shape [rows, labels].
        train_shares: The share of the rows of train that have each label, floats, shape [labels].
        names: Label names in the order of their ids.
        resamples: Number of bootstrap resamples.
        confidence: Share of the resampled scores inside the interval.
        seed: Seed of the resampling.

    Raises:
        DataError: If `train_shares` does not hold one share for each name, or `targets` does not fit `names`.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    is_float = np.issubdtype(train_shares.dtype, np.floating)
    if train_shares.shape != (len(names),) or not is_float or not _in_unit_interval(train_shares):
        raise DataError(
            f"Expected the share of train rows that have each of the {len(names)} labels, floats from 0 to 1, found "
            f"{train_shares.dtype} of shape {list(train_shares.shape)}. Pass train_targets.mean(axis=0)."
        )
    probabilities = np.broadcast_to(train_shares, (len(targets), len(names)))  # a view: one row in memory
    _check(targets, probabilities, names)
    predicted = np.broadcast_to(np.arange(len(names)) == train_shares.argmax(), probabilities.shape)
    return _score(
        targets.astype(bool),
        predicted,
        probabilities,
        names=names,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def tune_thresholds(targets: np.ndarray, probabilities: np.ndarray, *, metric: str = "f1") -> np.ndarray:
    """Return the threshold with the best score of each label on these rows, float64, shape [labels].

    A threshold is the midpoint between neighbouring probabilities of the label, or between the outermost one and 0 or
    1, and strictly inside (0, 1). Of several with the best score it is the one nearest to 0.5, and 0.5 for a label that
    no row has. A score that is tuned on few rows with the label is optimistic for others: score other rows than these.

    Args:
        targets: Whether each row has each label, bool or integers 0 and 1, shape [rows, labels].
        probabilities: Floats from 0 to 1, same shape.
        metric: "f1" of the label; "accuracy", "matthews" or "macro_f1" of it and its absence.

    Raises:
        DataError: If targets and probabilities do not fit each other.

    Source:
        Lipton, Elkan and Naryanaswamy 2014, Thresholding Classifiers to Maximize F1 Score, arXiv:1402.1892.
    """
    _check(targets, probabilities)
    columns = zip(targets.T.astype(bool), probabilities.T.astype(np.float64), strict=True)
    return np.array([_best_threshold(*column, metric) if column[0].any() else 0.5 for column in columns])


def _score(
    targets: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    *,
    names: Sequence[str],
    resamples: int,
    confidence: float,
    seed: int,
) -> Scores:
    check_settings(names, resamples)
    num_rows = len(targets)
    of_rows = _row_scores(targets, predicted, probabilities)
    cells = _sparse_cells(targets, predicted)
    sums, row_sums = resample_sums([cells, of_rows], resamples=resamples, seed=seed)
    counts, drawn_counts = _split(np.asarray(cells.sum(axis=0))), _split(sums)
    values = _from_sums(counts, of_rows.sum(axis=0), num_rows)
    drawn = _from_sums(drawn_counts, row_sums, num_rows)
    scores = with_intervals(values, drawn, n=num_rows, confidence=confidence)
    return Scores(scores, per_class=score_classes(counts, drawn_counts, names, confidence))


def _cells(targets: np.ndarray, predicted: np.ndarray) -> Counts:
    """Return which cells add to true positives, support and predicted, each bool [rows, labels]."""
    return targets & predicted, targets, predicted


def _sparse_cells(targets: np.ndarray, predicted: np.ndarray) -> sparse.csr_array:
    """Return `_cells` side by side, float64 [rows, 3 * labels]."""
    return sparse.hstack(
        [sparse.csr_array(part, dtype=np.float64) for part in _cells(targets, predicted)], format="csr"
    )


def _split(sums: np.ndarray) -> Counts:
    true_positives, support, predicted = np.split(sums, 3, axis=-1)
    return true_positives, support, predicted


def _from_sums(counts: Counts, row_sums: np.ndarray, num_rows: int | np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores, each [...], from counts [..., labels] and the sums of `_row_scores` [..., 4]."""
    micro = class_scores(*(count.sum(axis=-1) for count in counts))
    return {
        "micro_f1": micro["f1"],
        "macro_f1": class_scores(*counts)["f1"].mean(axis=-1),
        "micro_precision": micro["precision"],
        "micro_recall": micro["recall"],
        "samples_f1": row_sums[..., 0] / num_rows,
        "subset_accuracy": row_sums[..., 1] / num_rows,
        "hamming_loss": row_sums[..., 2] / num_rows,
        "log_loss": row_sums[..., 3] / num_rows,
    }


def _average_precision(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the average precision over all cells (micro): precisions at each probability, weighted by recall gained.

    `targets` is bool, both have shape [rows, labels]. Without a true label it is 0.
    """
    ascending = np.argsort(probabilities, axis=None, kind="stable")
    sorted_targets, sorted_probabilities = targets.ravel()[ascending[::-1]], probabilities.ravel()[ascending[::-1]]
    last = np.append(np.flatnonzero(np.diff(sorted_probabilities)), len(ascending) - 1)  # of each probability
    true_positives = np.cumsum(sorted_targets)[last]
    gained = np.diff(true_positives, prepend=0)
    return float(ratio(np.sum(gained * true_positives / (last + 1)), true_positives[-1]))


def _row_scores(targets: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return F1, whether all labels are right, the share of wrong ones and the log loss of each row: float64 [rows, 4].

    `targets` and `predicted` are bool [rows, labels]. Probabilities are clipped to [eps, 1 - eps] of their dtype, as in
    scikit-learn, so that the loss stays finite.
    """
    wrong = targets != predicted
    eps = np.finfo(probabilities.dtype).eps
    of_target = np.clip(np.where(targets, probabilities, 1 - probabilities), eps, 1 - eps)
    f1 = ratio(2 * (targets & predicted).sum(axis=1), targets.sum(axis=1) + predicted.sum(axis=1))
    losses = -np.log(of_target, dtype=np.float64).mean(axis=1)
    return np.stack([f1, ~wrong.any(axis=1), wrong.mean(axis=1), losses], axis=1)


def _best_threshold(targets: np.ndarray, probabilities: np.ndarray, metric: str) -> float:
    """Return the best threshold for one label; both arrays have shape [rows], one row or more has the label."""
    values, column = np.unique(probabilities, return_inverse=True)
    # Predicted is what reaches the upper of two neighbours; the last candidate predicts nothing.
    lower, upper = np.append(0.0, values), np.append(values, 1.0)
    candidates = (lower + upper) / 2
    # Between neighbours among floats lies no other: the midpoint is rounded to one of them, and must be the upper.
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
    """Return the score of each candidate, from how many rows it predicts the label for, and how many rightly."""
    if metric == "f1":
        return np.asarray(2 * true_positives / (predicted + positives))
    true_negatives = num_rows - predicted - positives + true_positives
    support = np.broadcast_to([num_rows - positives, positives], (len(predicted), 2))
    predictions = np.stack([num_rows - predicted, predicted], axis=1)
    return from_counts(np.stack([true_negatives, true_positives], axis=1), support, predictions)[metric]


def _in_unit_interval(values: np.ndarray) -> bool:
    return bool(np.all((values >= 0) & (values <= 1)))  # False for NaN


def _check(targets: np.ndarray, probabilities: np.ndarray, names: Sequence[str] | None = None) -> None:
    columns = f" for {len(names)} names" if names is not None else ""
    fits = targets.ndim == 2 and (names is None or targets.shape[1] == len(names))
    is_integer = targets.dtype == bool or np.issubdtype(targets.dtype, np.integer)
    if not fits or not is_integer or not _in_unit_interval(targets):
        raise DataError(
            f"Expected targets of 0 and 1 as bool or integers of shape [rows, labels]{columns}, found {targets.dtype} "
            f"of shape {list(targets.shape)}. Pass one row for each text and one column for each label."
        )
    if targets.size == 0:
        raise DataError("Expected one example or more to score, found none. Pass a split that has rows.")
    if probabilities.shape != targets.shape or not np.issubdtype(probabilities.dtype, np.floating):
        raise DataError(
            f"Expected probabilities as floats of shape {list(targets.shape)}, that of the targets, found "
            f"{probabilities.dtype} of shape {list(probabilities.shape)}. Pass one row for each row of targets."
        )
    wrong = np.flatnonzero(~np.all((probabilities >= 0) & (probabilities <= 1), axis=1))
    if len(wrong):
        row = probabilities[wrong[0]]
        raise DataError(
            f"Expected probabilities from 0 to 1, found {row.min():.4g} to {row.max():.4g} in row {wrong[0]}. Pass the "
            "sigmoid of the logits; where it is NaN the model diverged: lower the learning rate, or train in float32."
        )


def _check_thresholds(thresholds: np.ndarray, *, num_labels: int) -> None:
    if thresholds.shape != (num_labels,) or not np.isfinite(thresholds).all():
        raise DataError(
            f"Expected a finite threshold for each of the {num_labels} labels, found {thresholds.dtype} of shape "
            f"{list(thresholds.shape)}. Pass np.full({num_labels}, 0.5), or tune_thresholds of the validation split."
        )
