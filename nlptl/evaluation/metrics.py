"""Scores with bootstrap intervals, and those of a single-label classifier.

The tests compare every score with scikit-learn (zero_division=0).
"""

from collections import Counter
from collections.abc import Container, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from nlptl.config import SelectionMetric, TaskKind, to_json
from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.uncertainty import (
    Counts,
    WeightedScores,
    check_resamples,
    class_indicator,
    percentile_interval,
    resample_counts,
    resample_means,
    resample_scores,
    split_counts,
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
        """Return strict JSON: metric name to score, and "per_class"; NaN becomes None."""
        return to_json({**self, "per_class": self.per_class})


def sign_of(metric: str) -> int:
    """Return 1 for a score of which higher values are better, -1 for one of which lower values are."""
    return -1 if metric in LOWER_IS_BETTER else 1


def main_metric(kind: TaskKind, scores: Container[str], *, chosen_by: str | None = None) -> str:
    """Return the score to report first: the one that chose the model, otherwise the first of its kind in `scores`.

    `scores` are the names of the computed scores; `chosen_by` is the selection metric, None for the default.
    """
    first, *others = METRICS[kind]
    return next((name for name in (chosen_by, first, *others) if name is not None and name in scores), first)


def count_classes(labels: np.ndarray, predictions: np.ndarray, *, num_classes: int) -> Counts:
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


@dataclass(frozen=True)
class Scorer:
    """The predictions of a model for the rows of a test set, to be scored with or without intervals.

    Raises:
        ConfigError: If `names` repeats a name.
    """

    weighted: WeightedScores
    """The scores of weighted rows."""
    num_rows: int
    names: Sequence[str] = ()
    """Names of the classes."""
    counts: sparse.csr_array | None = None
    """True positives, support and predictions of each class in each row, [rows, 3 * classes]. None: no scores per
    class."""

    def __post_init__(self) -> None:
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise ConfigError(
                f"Expected different label names, found {repeated} more than once. Rename or merge these classes."
            )

    def points(self) -> dict[str, float]:
        """Return the scores without intervals."""
        return {metric: float(value[0]) for metric, value in self.weighted(np.ones((1, self.num_rows))).items()}

    def score(self, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Scores:
        """Return the scores with percentile bootstrap intervals over the rows.

        If all predictions are right, or all wrong, the interval has width 0: read it together with `n`.

        Args:
            resamples: Number of resamples of the rows.
            confidence: Fraction of resampled scores inside the interval.
            seed: Seed of the resampling.

        Returns:
            The scores, with the number of rows as n. `per_class` has precision, recall and f1 of every class with its
            count in the labels as n (NaN if that is 0); its intervals leave out resamples without the class.

        Raises:
            ConfigError: If `resamples` or `confidence` is out of range.
        """
        check_resamples(resamples)
        drawn, class_counts = self._resample(resamples, seed)
        scores = {}
        for metric, value in self.points().items():
            low, high = percentile_interval(drawn[metric], confidence=confidence)
            scores[metric] = Score(value, float(low), float(high), self.num_rows)
        return Scores(scores, per_class=None if class_counts is None else self._score_classes(class_counts, confidence))

    def _resample(self, resamples: int, seed: int) -> tuple[dict[str, np.ndarray], Counts | None]:
        """Return scores [resamples] and counts [resamples, classes] of bootstrap resamples of the rows."""

        def scores_and_counts(weights: np.ndarray) -> dict[str, np.ndarray]:
            counts = {} if self.counts is None else {"": weights @ self.counts}
            return {**self.weighted(weights), **counts}

        drawn = resample_scores(scores_and_counts, self.num_rows, resamples=resamples, seed=seed)
        return drawn, None if self.counts is None else split_counts(drawn.pop(""))

    def _score_classes(self, resampled: Counts, confidence: float) -> dict[str, dict[str, Score]]:
        assert self.counts is not None
        counts = split_counts(np.asarray(self.counts.sum(axis=0)))
        per_class: dict[str, dict[str, Score]] = {name: {} for name in self.names}
        support, drawn = counts[1], class_scores(*resampled)
        for metric, values in class_scores(*counts).items():
            drawn[metric][resampled[1] == 0] = np.nan
            low, high = percentile_interval(drawn[metric], confidence=confidence)
            defined = np.where(support > 0, values, np.nan)
            for i, name in enumerate(self.names):
                per_class[name][metric] = Score(float(defined[i]), float(low[i]), float(high[i]), int(support[i]))
        return per_class


def scorer(
    labels: np.ndarray, probabilities: np.ndarray, *, names: Sequence[str], predictions: np.ndarray | None = None
) -> Scorer:
    """Return the scorer of predicted labels and their probabilities.

    Its scores are accuracy, macro_f1, weighted_f1, precision, recall (both macro), matthews and log_loss.

    Args:
        labels: True ids in range(classes), integers [rows].
        probabilities: Floats whose rows sum to 1, [rows, classes].
        names: Label names in the order of their ids.
        predictions: Predicted ids, integers [rows]. None: the most probable class, the first one if equal.

    Raises:
        DataError: If labels and probabilities do not fit each other or `names`, or are not ids and probabilities.
        ConfigError: If `names` repeats a name.
    """
    check_labels(labels, names)
    check_probabilities(probabilities, num_rows=len(labels), num_classes=len(names))
    labels, losses = labels.astype(np.int64), log_loss(labels, probabilities)
    predictions = probabilities.argmax(axis=1) if predictions is None else predictions
    indicator = class_indicator(labels, predictions, len(names)).astype(np.float64)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        counts = split_counts(weights @ indicator)
        return {**from_counts(*counts), "log_loss": weights @ losses / weights.sum(axis=1)}

    rows = {"labels": labels, "predictions": predictions, "losses": losses}
    return _ClassScorer(scores, len(labels), names, indicator, **rows)


@dataclass(frozen=True, kw_only=True)
class _ClassScorer(Scorer):
    """Draws the counts of all classes at once, which is faster than drawing rows of a large test set."""

    labels: np.ndarray
    predictions: np.ndarray
    losses: np.ndarray

    def points(self) -> dict[str, float]:
        counts = count_classes(self.labels, self.predictions, num_classes=len(self.names))
        scores = {**from_counts(*counts), "log_loss": self.losses.mean()}
        return {metric: float(value) for metric, value in scores.items()}

    def _resample(self, resamples: int, seed: int) -> tuple[dict[str, np.ndarray], Counts]:
        options = {"resamples": resamples, "seed": seed}
        counts = resample_counts(self.labels, self.predictions, num_classes=len(self.names), **options)
        return {**from_counts(*counts), "log_loss": resample_means(self.losses, **options)}, counts


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
