"""Scores of a single-label classifier, with bootstrap intervals.

The tests compare every score with scikit-learn (zero_division=0).
"""

import math
from collections.abc import Container, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
from scipy import sparse

from nlptl.config import SelectionMetric, TaskKind
from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.uncertainty import (
    WeightedScores,
    class_indicator,
    percentile_interval,
    resample_counts,
    resample_means,
    resample_weights,
)

LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae", "hamming_loss"})
"""Scores where lower is better; for all others higher is better."""

METRICS: dict[TaskKind, tuple[SelectionMetric, ...]] = {
    "single_label": ("accuracy", "macro_f1", "weighted_f1", "matthews", "log_loss"),
    "ordinal": ("quadratic_kappa", "mae", "accuracy", "macro_f1", "log_loss"),
    "multi_label": (
        *("average_precision", "micro_f1", "macro_f1", "samples_f1", "subset_accuracy", "hamming_loss", "log_loss"),
    ),
    "regression": ("spearman", "pearson", "rmse", "mae", "r2"),
    "tokens": ("span_f1", "span_precision", "span_recall", "macro_f1", "token_accuracy"),
}
"""Scores that can choose a model, by kind of task. The first one is the default, and is reported first."""


class Bootstrap(TypedDict, total=False):
    """Options of bootstrap intervals, accepted by all scoring functions."""

    resamples: int
    """Number of resamples of the rows, 2000 by default."""
    confidence: float
    """Fraction of resampled scores inside the interval, 0.95 by default."""
    seed: int
    """Seed of the resampling, 0 by default."""


@dataclass(frozen=True)
class Score:
    """A score, the ends of its interval, and the number of examples."""

    value: float
    low: float
    high: float
    n: int


class Scores(dict[str, Score]):
    """Scores by metric name, and in `per_class` by label name and metric name."""

    def __init__(
        self, scores: Mapping[str, Score], *, per_class: Mapping[str, Mapping[str, Score]] | None = None
    ) -> None:
        """Copy the scores; omit `per_class` for a task without classes."""
        super().__init__(scores)
        self.per_class = {} if per_class is None else {name: dict(row) for name, row in per_class.items()}

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and numbers for strict JSON: metric name to score, and "per_class"; NaN becomes None."""

        def plain(scores: Mapping[str, Score]) -> dict[str, Any]:
            return {
                metric: {key: value if math.isfinite(value) else None for key, value in asdict(score).items()}
                for metric, score in scores.items()
            }

        return plain(self) | {"per_class": {name: plain(row) for name, row in self.per_class.items()}}


def main_metric(kind: TaskKind, scores: Container[str], *, chosen_by: str | None = None) -> str:
    """Return the score to report first: the one that chose the model, otherwise the first of its kind in `scores`.

    `scores` are the names of the computed scores; `chosen_by` is the selection metric, None for the default.
    """
    first, *others = METRICS[kind]
    return next((name for name in (chosen_by, first, *others) if name is not None and name in scores), first)


def count_classes(
    labels: np.ndarray, predictions: np.ndarray, *, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true positives, support and predictions of each class, int64 [classes], from ids [rows]."""
    return (
        np.bincount(labels[labels == predictions], minlength=num_classes),
        np.bincount(labels, minlength=num_classes),
        np.bincount(predictions, minlength=num_classes),
    )


def from_counts(true_positives: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores that are determined by the counts of the classes.

    Macro averages run over the classes that occur in the labels or the predictions; a ratio with denominator 0 is 0.

    Args:
        true_positives: Correct predictions of each class, shape [..., classes].
        support: Count of each class in the labels, same shape.
        predicted: Count of each class in the predictions, same shape.

    Returns:
        accuracy, macro_f1, weighted_f1, precision and recall (both macro) and matthews, each of shape [...].

    Source:
        Matthews for several classes: Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006, equation 8.
    """
    by_class = class_scores(true_positives, support, predicted)
    num_rows = support.sum(axis=-1).astype(np.float64)
    num_correct = true_positives.sum(axis=-1)
    num_occurring = np.count_nonzero(support + predicted, axis=-1)

    # Sums of squares in float64: with 100,000 rows the product under the root overflows int64.
    covariance = num_correct * num_rows - _dot(support, predicted)
    variances = (num_rows**2 - _dot(predicted, predicted)) * (num_rows**2 - _dot(support, support))
    return {
        "accuracy": ratio(num_correct, num_rows),
        "macro_f1": ratio(by_class["f1"].sum(axis=-1), num_occurring),
        "weighted_f1": ratio(_dot(by_class["f1"], support), num_rows),
        "precision": ratio(by_class["precision"].sum(axis=-1), num_occurring),
        "recall": ratio(by_class["recall"].sum(axis=-1), num_occurring),
        "matthews": ratio(covariance, np.sqrt(variances)),
    }


def class_scores(true_positives: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall and f1 of each class in the shape of the counts; 0 if a denominator is 0."""
    return {
        "precision": ratio(true_positives, predicted),
        "recall": ratio(true_positives, support),
        "f1": ratio(2 * true_positives, support + predicted),
    }


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the negative log probability of each label in nats, float64 [rows].

    Probabilities are clipped to [eps, 1 - eps] of their dtype, as in scikit-learn, so that the loss is finite.
    """
    eps = np.finfo(probabilities.dtype).eps
    of_label = probabilities[np.arange(len(labels)), labels]
    losses: np.ndarray = -np.log(np.clip(of_label, eps, 1 - eps).astype(np.float64))
    return losses


def point_scores(
    labels: np.ndarray, probabilities: np.ndarray, *, predictions: np.ndarray | None = None
) -> dict[str, float]:
    """Return the scores of `score_predictions` without intervals."""
    predictions = probabilities.argmax(axis=1) if predictions is None else predictions
    counts = count_classes(labels, predictions, num_classes=probabilities.shape[1])
    scores = {name: float(value) for name, value in from_counts(*counts).items()}
    return {**scores, "log_loss": float(log_loss(labels, probabilities).mean())}


def score_predictions(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    names: Sequence[str],
    predictions: np.ndarray | None = None,
    **options: Unpack[Bootstrap],
) -> Scores:
    """Score probabilities and predicted labels against true labels.

    Intervals are percentile bootstrap intervals over the rows. If all predictions are right, or all wrong, the interval
    has width 0: read it together with `n`.

    Args:
        labels: True ids in range(classes), integers [rows].
        probabilities: Floats whose rows sum to 1, [rows, classes].
        names: Label names in the order of their ids.
        predictions: Predicted ids, integers [rows]. None: the most probable class, the first one if equal.
        options: See `Bootstrap`.

    Returns:
        accuracy, macro_f1, weighted_f1, precision, recall (both macro), matthews and log_loss. `per_class` has
        precision, recall and f1 of every class with its count in `labels` as n (NaN if that is 0); its intervals leave
        out resamples without the class.

    Raises:
        DataError: If labels and probabilities do not fit each other or `names`, or are not ids and probabilities.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    resamples, confidence, seed = bootstrap_options(names, options)
    check_labels(labels, names)
    check_probabilities(probabilities, num_rows=len(labels), num_classes=len(names))
    labels = labels.astype(np.int64)
    predictions = probabilities.argmax(axis=1) if predictions is None else predictions
    losses = log_loss(labels, probabilities)

    # Drawing the counts of all classes at once is faster than `bootstrap_scores` on a large test set.
    counts = count_classes(labels, predictions, num_classes=len(names))
    resampled = resample_counts(labels, predictions, num_classes=len(names), resamples=resamples, seed=seed)
    values = {**from_counts(*counts), "log_loss": losses.mean()}
    drawn = {**from_counts(*resampled), "log_loss": resample_means(losses, resamples=resamples, seed=seed)}
    scores = with_intervals(values, drawn, n=len(labels), confidence=confidence)
    return Scores(scores, per_class=score_classes(counts, resampled, names, confidence))


def weighted_scores(
    labels: np.ndarray, predictions: np.ndarray, losses: np.ndarray, *, num_classes: int
) -> WeightedScores:
    """Return a function from weights to the scores of `score_predictions`.

    `labels` and `predictions` are ids in range(num_classes), `losses` the log loss of each row, all [rows].
    """
    indicator = class_indicator(labels, predictions, num_classes).astype(np.float64)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = split_counts(weights @ indicator)
        return {**from_counts(*counts), "log_loss": weights @ losses / weights.sum(axis=1)}

    return scores


def bootstrap_scores(
    weighted: WeightedScores,
    num_rows: int,
    *,
    counts: np.ndarray | sparse.csr_array | None = None,
    names: Sequence[str] = (),
    **options: Unpack[Bootstrap],
) -> Scores:
    """Return scores with percentile bootstrap intervals over the rows.

    Args:
        weighted: Function from weights to scores.
        num_rows: Number of rows of the test set.
        counts: True positives, support and predictions of each class in each row, [rows, 3 * classes]. None: no scores
            per class.
        names: Names of the classes.
        options: See `Bootstrap`.

    Raises:
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    resamples, confidence, seed = bootstrap_options(names, options)
    values = point_values(weighted, num_rows)
    chunks, class_counts = [], []
    for weights in resample_weights(num_rows, resamples=resamples, seed=seed):
        chunks.append(weighted(weights))
        class_counts += [] if counts is None else [weights @ counts]
    drawn = {metric: np.concatenate([chunk[metric] for chunk in chunks]) for metric in values}
    scores = with_intervals(values, drawn, n=num_rows, confidence=confidence)
    if counts is None:
        return Scores(scores)
    total, resampled = split_counts(np.asarray(counts.sum(axis=0))), split_counts(np.concatenate(class_counts))
    return Scores(scores, per_class=score_classes(total, resampled, names, confidence))


def point_values(weighted: WeightedScores, num_rows: int) -> dict[str, float]:
    """Return the scores of a test set, each row counted once."""
    return {metric: float(value[0]) for metric, value in weighted(np.ones((1, num_rows))).items()}


def split_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split counts [..., 3 * classes] into true positives, support and predictions, each [..., classes]."""
    true_positives, support, predicted = np.split(counts, 3, axis=-1)
    return true_positives, support, predicted


def bootstrap_options(names: Sequence[str], options: Bootstrap) -> tuple[int, float, int]:
    """Return resamples, confidence and seed; refuse repeated names and less than one resample."""
    repeated = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise ConfigError(
            f"Expected different label names, found {repeated} more than once. Rename or merge these classes."
        )
    resamples = options.get("resamples", 2000)
    if resamples < 1:
        raise ConfigError(
            f"Expected 1 resample or more, found {resamples}. Pass resamples=2000, the default, for 95 % intervals."
        )
    return resamples, options.get("confidence", 0.95), options.get("seed", 0)


def with_intervals(
    values: Mapping[str, float | np.ndarray], drawn: Mapping[str, np.ndarray], *, n: int, confidence: float
) -> dict[str, Score]:
    """Return each of `values` with the percentile interval of its resampled values, `drawn` [resamples].

    Raises:
        ConfigError: If `confidence` is not between 0 and 1.
    """
    scores = {}
    for metric, value in values.items():
        low, high = percentile_interval(drawn[metric], confidence=confidence)
        scores[metric] = Score(float(value), float(low), float(high), n)
    return scores


def score_classes(
    counts: tuple[np.ndarray, np.ndarray, np.ndarray],
    resampled: tuple[np.ndarray, np.ndarray, np.ndarray],
    names: Sequence[str],
    confidence: float,
) -> dict[str, dict[str, Score]]:
    """Return precision, recall and F1 of each class with intervals, by name; NaN for a class without examples."""
    per_class: dict[str, dict[str, Score]] = {name: {} for name in names}
    support, resampled_support = counts[1], resampled[1]
    drawn = class_scores(*resampled)
    for metric, values in class_scores(*counts).items():
        drawn[metric][resampled_support == 0] = np.nan
        low, high = percentile_interval(drawn[metric], confidence=confidence)
        defined = np.where(support > 0, values, np.nan)
        for i, name in enumerate(names):
            per_class[name][metric] = Score(float(defined[i]), float(low[i]), float(high[i]), int(support[i]))
    return per_class


def check_rows(rows: Sized, what: str = "example") -> None:
    """Refuse an empty split."""
    if len(rows) == 0:
        raise DataError(f"Expected one {what} or more to score, found none. Pass a split that has rows.")


def check_like(predicted: np.ndarray, targets: np.ndarray, what: str) -> None:
    """Refuse predictions that are not floats of the shape of the targets."""
    if predicted.shape != targets.shape or not np.issubdtype(predicted.dtype, np.floating):
        raise DataError(
            f"Expected {what} as floats of shape {list(targets.shape)}, that of the targets, found {predicted.dtype} "
            f"of shape {list(predicted.shape)}. Pass one row for each row of targets."
        )


def check_labels(labels: np.ndarray, names: Sequence[str]) -> None:
    """Refuse labels that are not ids of `names`, and an empty array."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"Expected labels as integer ids of shape [rows], found {labels.dtype} of shape {list(labels.shape)}. "
            "Turn label names into ids first: Labels.ids(names)."
        )
    check_rows(labels)
    low, high = labels.min(), labels.max()
    if low < 0 or high >= len(names):
        raise DataError(
            f"Expected label ids from 0 to {len(names) - 1}, one for each of the {len(names)} names, found ids from "
            f"{low} to {high}. Remove these rows, or pass every label name in names=."
        )


def check_probabilities(probabilities: np.ndarray, *, num_rows: int, num_classes: int) -> None:
    """Refuse an array that is not one row of finite probabilities for each label."""
    if probabilities.shape != (num_rows, num_classes) or not np.issubdtype(probabilities.dtype, np.floating):
        raise DataError(
            f"Expected probabilities as floats of shape [{num_rows}, {num_classes}] for {num_rows} labels and "
            f"{num_classes} names, found {probabilities.dtype} of shape {list(probabilities.shape)}. "
            "Pass one row for each label and one column for each name."
        )
    # The sums carry NaN and infinity along, which saves an array of the size of the probabilities.
    with np.errstate(invalid="ignore", over="ignore"):
        sums = probabilities.sum(axis=1, dtype=np.float64)
    not_finite = np.flatnonzero(~np.isfinite(sums))
    if len(not_finite):
        raise DataError(
            f"Expected finite probabilities, found NaN or infinity in {len(not_finite)} of {num_rows} rows, first in "
            f"row {not_finite[0]}. The model diverged: lower the learning rate, or train in float32."
        )
    # Half precision keeps three digits; the sums of logits miss 1 by far more.
    wrong = np.flatnonzero((np.abs(sums - 1) > 0.01) | (probabilities.min(axis=1) < 0))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"Expected probabilities of 0 or more that sum to 1 in each row, found sum {sums[row]:.4g} and minimum "
            f"{probabilities[row].min():.4g} in row {row}. Pass the softmax of the logits."
        )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; the result is 0 where the denominator is 0."""
    ratio = np.zeros(np.shape(numerator))
    np.divide(numerator, denominator, out=ratio, where=denominator != 0)
    return ratio


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum over classes of a * b in float64, without the array a * b."""
    return np.asarray(np.einsum("...c,...c->...", a, b, dtype=np.float64, casting="same_kind"))
