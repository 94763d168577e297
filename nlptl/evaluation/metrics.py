"""Scores of a single-label classifier, each with the interval that its test set can support.

The semantics are those of scikit-learn with zero_division=0; the tests hold every score against it.
"""

import math
from collections.abc import Container, Mapping, Sequence
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
"""Scores of which less is better; of all others more is."""

METRICS: dict[TaskKind, tuple[SelectionMetric, ...]] = {
    "single_label": ("accuracy", "macro_f1", "weighted_f1", "matthews", "log_loss"),
    "ordinal": ("quadratic_kappa", "mae", "accuracy", "macro_f1", "log_loss"),
    "multi_label": (
        *("average_precision", "micro_f1", "macro_f1", "samples_f1", "subset_accuracy", "hamming_loss", "log_loss"),
    ),
    "regression": ("spearman", "pearson", "rmse", "mae", "r2"),
    "tokens": ("span_f1", "span_precision", "span_recall", "macro_f1", "token_accuracy"),
}
"""The scores of each kind of task that can choose a model. The first one does by default, and heads every report."""


class Bootstrap(TypedDict, total=False):
    """Options of bootstrap intervals, which all scoring functions take."""

    resamples: int
    """Number of resamples of the rows, 2000 by default."""
    confidence: float
    """Share of the resampled scores inside an interval, 0.95 by default."""
    seed: int
    """Seed of the resampling, 0 by default."""


@dataclass(frozen=True)
class Score:
    """A score, the low and high end of its interval, and the number of examples it rests on."""

    value: float
    low: float
    high: float
    n: int


class Scores(dict[str, Score]):
    """Scores by metric name, and in `per_class` by label name and metric name."""

    def __init__(
        self, scores: Mapping[str, Score], *, per_class: Mapping[str, Mapping[str, Score]] | None = None
    ) -> None:
        """Copy the scores; `per_class` is left out where a task has no classes."""
        super().__init__(scores)
        self.per_class = {} if per_class is None else {name: dict(row) for name, row in per_class.items()}

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and numbers for strict JSON: metric name to score, and "per_class"; NaN becomes None."""
        scores: dict[str, Any] = {metric: _score_to_json(score) for metric, score in self.items()}
        scores["per_class"] = {
            name: {metric: _score_to_json(score) for metric, score in row.items()}
            for name, row in self.per_class.items()
        }
        return scores


def main_metric(kind: TaskKind, scores: Container[str], *, chosen_by: str | None = None) -> str:
    """Return the score that heads a report: the one that chose the model, or the first of its kind that is there.

    Args:
        kind: Kind of task.
        scores: Names of the scores that were computed.
        chosen_by: The selection metric; None: the default of the kind.
    """
    first, *others = METRICS[kind]
    return next((name for name in (chosen_by, first, *others) if name is not None and name in scores), first)


def count_classes(
    labels: np.ndarray, predictions: np.ndarray, *, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true positives, support and predicted of each class, int64, each of shape [classes].

    `labels` and `predictions` hold ids in range(num_classes), shape [rows].
    """
    return (
        np.bincount(labels[labels == predictions], minlength=num_classes),
        np.bincount(labels, minlength=num_classes),
        np.bincount(predictions, minlength=num_classes),
    )


def from_counts(true_positives: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores that depend on a prediction only through the counts of the classes.

    Macro averages run over the classes that occur in the labels or the predictions; a ratio without a denominator is 0.

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

    # Sums of squares as float64: with 100,000 rows the product under the root overflows int64.
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
    """Return precision, recall and f1 of each class, each of the shape of the counts; 0 without a denominator."""
    return {
        "precision": ratio(true_positives, predicted),
        "recall": ratio(true_positives, support),
        "f1": ratio(2 * true_positives, support + predicted),
    }


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the negative log probability of each example's label in nats, float64, shape [rows].

    Probabilities are clipped to [eps, 1 - eps] of their dtype, as in scikit-learn, so that the loss stays finite.
    """
    eps = np.finfo(probabilities.dtype).eps
    of_label = probabilities[np.arange(len(labels)), labels]
    losses: np.ndarray = -np.log(np.clip(of_label, eps, 1 - eps).astype(np.float64))
    return losses


def point_scores(
    labels: np.ndarray, probabilities: np.ndarray, *, predictions: np.ndarray | None = None
) -> dict[str, float]:
    """Return the scores of `score_predictions` without intervals: what choosing a model during training needs."""
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
    """Score probabilities, and the labels predicted from them, against true labels.

    All intervals are percentile bootstrap intervals over the rows. Without any mistake, or any hit, every resample has
    the same score and the interval has no width: read it together with `n`.

    Args:
        labels: True ids in range(classes), integers, shape [rows].
        probabilities: Floats, each row of sum 1, shape [rows, classes].
        names: Label names in the order of their ids.
        predictions: Predicted ids, integers [rows]. None: the most probable class, the first one of equals.
        options: See `Bootstrap`.

    Returns:
        accuracy, macro_f1, weighted_f1, precision, recall (both macro), matthews and log_loss. `per_class` has
        precision, recall and f1 of every class, n being its count in `labels`: NaN where that is 0. Resamples without
        the class are left out of its intervals.

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

    # The counts of the classes are drawn at once, which is faster than `bootstrap_scores` on a large test set.
    counts = count_classes(labels, predictions, num_classes=len(names))
    resampled = resample_counts(labels, predictions, num_classes=len(names), resamples=resamples, seed=seed)
    values = {**from_counts(*counts), "log_loss": losses.mean()}
    drawn = {**from_counts(*resampled), "log_loss": resample_means(losses, resamples=resamples, seed=seed)}
    scores = with_intervals(values, drawn, n=len(labels), confidence=confidence)
    return Scores(scores, per_class=score_classes(counts, resampled, names, confidence))


def weighted_scores(
    labels: np.ndarray, predictions: np.ndarray, losses: np.ndarray, *, num_classes: int
) -> WeightedScores:
    """Return a function that scores weighted rows, such as those of a bootstrap resample.

    Args:
        labels: True ids in range(num_classes), shape [rows].
        predictions: Predicted ids, shape [rows].
        losses: The log loss of each row, floats, shape [rows].
        num_classes: Number of classes.

    Returns:
        From weights [resamples, rows] the scores of `score_predictions` by name, each [resamples].
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
        weighted: The scores, from how often each row counts.
        num_rows: Number of rows of the test set.
        counts: What each row adds to true positives, support and predictions of the classes, [rows, 3 * classes]. None:
            no scores per class.
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
    """Return the scores of a test set in which each row counts once."""
    return {metric: float(value[0]) for metric, value in weighted(np.ones((1, num_rows))).items()}


def split_counts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true positives, support and predictions, each [..., classes], from counts [..., 3 * classes]."""
    true_positives, support, predicted = np.split(counts, 3, axis=-1)
    return true_positives, support, predicted


def bootstrap_options(names: Sequence[str], options: Bootstrap) -> tuple[int, float, int]:
    """Return resamples, confidence and seed; refuse repeated label names, and less than one resample."""
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
    """Return each of `values` with the percentile interval of its resampled values.

    Args:
        values: One number for each metric.
        drawn: The same metrics in bootstrap resamples, each of shape [resamples].
        n: Number of examples the scores rest on.
        confidence: Share of the resampled scores inside the interval.

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
    """Return precision, recall and F1 of each class with intervals, by name; a class without examples has NaN."""
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


def check_labels(labels: np.ndarray, names: Sequence[str]) -> None:
    """Refuse what are no ids of `names`, and no labels at all."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"Expected labels as integer ids of shape [rows], found {labels.dtype} of shape {list(labels.shape)}. "
            "Turn label names into ids first: Labels.ids(names)."
        )
    if len(labels) == 0:
        raise DataError("Expected one example or more to score, found none. Pass a split that has rows.")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= len(names):
        raise DataError(
            f"Expected label ids from 0 to {len(names) - 1}, one for each of the {len(names)} names, found ids from "
            f"{low} to {high}. Remove these rows, or pass every label name in names=."
        )


def check_probabilities(probabilities: np.ndarray, *, num_rows: int, num_classes: int) -> None:
    """Refuse what is no row of finite probabilities for each label."""
    is_float = np.issubdtype(probabilities.dtype, np.floating)
    if probabilities.shape != (num_rows, num_classes) or not is_float:
        raise DataError(
            f"Expected probabilities as floats of shape [{num_rows}, {num_classes}] for {num_rows} labels and "
            f"{num_classes} names, found {probabilities.dtype} of shape {list(probabilities.shape)}. "
            "Pass one row for each label and one column for each name."
        )
    # Reductions carry NaN and infinity along, so that no array of the size of the probabilities is built.
    with np.errstate(invalid="ignore", over="ignore"):
        sums = probabilities.sum(axis=1, dtype=np.float64)
    not_finite = np.flatnonzero(~np.isfinite(sums))
    if len(not_finite):
        raise DataError(
            f"Expected finite probabilities, found NaN or infinity in {len(not_finite)} of {num_rows} rows, first in "
            f"row {not_finite[0]}. The model diverged: lower the learning rate, or train in float32."
        )
    # Half precision keeps three digits; logits miss a sum of 1 by far more.
    wrong = np.flatnonzero((np.abs(sums - 1) > 0.01) | (probabilities.min(axis=1) < 0))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"Expected probabilities of 0 or more that sum to 1 in each row, found sum {sums[row]:.4g} and minimum "
            f"{probabilities[row].min():.4g} in row {row}. Pass the softmax of the logits."
        )


def _score_to_json(score: Score) -> dict[str, float | int | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(score).items()}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; 0 where the denominator is 0."""
    ratio = np.zeros(np.shape(numerator))
    np.divide(numerator, denominator, out=ratio, where=denominator != 0)
    return ratio


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum over classes of a * b in float64, without building a * b."""
    return np.asarray(np.einsum("...c,...c->...", a, b, dtype=np.float64, casting="same_kind"))
