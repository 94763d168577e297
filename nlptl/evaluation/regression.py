"""Scores of predicted numbers, one or several for each text, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlptl.errors import DataError
from nlptl.evaluation import metrics
from nlptl.evaluation.uncertainty import WeightedScores


def scorer(targets: np.ndarray, values: np.ndarray, *, names: Sequence[str]) -> metrics.Scorer:
    """Return the scorer of predicted numbers.

    Its scores are spearman (equal numbers share their mean rank), pearson, rmse, mae and r2, each the mean over the
    outputs; with intervals only rmse and mae for a single row, because the others are undefined. If there are several
    outputs, `per_class` has the scores of each by name.

    The correlation of constant targets or values is undefined; here, and in resamples, it is 0. r2 of constant targets
    is that of scikit-learn: 1 if all errors are 0, otherwise 0.

    Args:
        targets: True numbers, floats [rows, outputs].
        values: Predicted numbers, floats, same shape.
        names: Names of the outputs.

    Raises:
        DataError: If targets, values and names do not fit each other, or a number is not finite.
        ConfigError: If `names` repeats a name.
    """
    _check(targets, values, names)
    pairs = zip(targets.T.astype(np.float64), values.T.astype(np.float64), strict=True)
    columns = [_weighted_column(*pair) for pair in pairs]

    def means(weights: np.ndarray) -> dict[str, np.ndarray]:
        of_columns = [column(weights) for column in columns]
        return {metric: np.mean([each[metric] for each in of_columns], axis=0) for metric in of_columns[0]}

    return _NumberScorer(means, len(targets), names, columns=columns)


@dataclass(frozen=True, kw_only=True)
class _NumberScorer(metrics.Scorer):
    columns: Sequence[WeightedScores]

    def score(self, **options: Any) -> metrics.Scores:
        scores = self._defined(super().score(**options))
        if len(self.names) == 1:
            return scores
        columns = zip(self.names, self.columns, strict=True)
        by_output = {name: metrics.Scorer(column, self.num_rows).score(**options) for name, column in columns}
        return metrics.Scores(scores, per_class={name: self._defined(found) for name, found in by_output.items()})

    def _defined(self, scores: metrics.Scores) -> metrics.Scores:
        """Leave out correlations and r2 of a single row."""
        kept = scores if self.num_rows > 1 else ("rmse", "mae")
        return metrics.Scores({metric: scores[metric] for metric in kept})


def _weighted_column(targets: np.ndarray, values: np.ndarray) -> WeightedScores:
    """Return a function from weights to the scores of one output.

    The rows are sorted only once. The rank of a number in a resample is the count of smaller numbers, plus half of one
    and of the count of the number itself.
    """
    order = np.argsort(targets, kind="stable")
    targets, values = targets[order], values[order]
    errors = values - targets
    x, y = targets - targets.mean(), values - values.mean()  # little precision is lost when means are subtracted
    sums_of = np.stack([x, y, x * x, y * y, x * y, errors**2, np.abs(errors)], axis=1)
    x_ranks, y_ranks = _weighted_ranks(targets), _weighted_ranks(values)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        weights = weights[:, order]
        sums, num_rows = (weights @ sums_of).T, weights.sum(axis=1)
        # Centred: products of the ranks themselves could be too large for float64 to be exact.
        of_x, of_y = x_ranks(weights), y_ranks(weights)
        weighted = weights * of_x
        x_spread, y_spread = _dots(weighted, of_x), _dots(weights * of_y, of_y)
        total = np.where(x_spread > 0, sums[2] - sums[0] ** 2 / num_rows, 0.0)  # exactly 0 if all are equal
        y_total = np.where(y_spread > 0, sums[3] - sums[1] ** 2 / num_rows, 0.0)
        covariance = sums[4] - sums[0] * sums[1] / num_rows
        return {
            "spearman": metrics.ratio(_dots(weighted, of_y), np.sqrt(x_spread) * np.sqrt(y_spread)).clip(-1, 1),
            "pearson": metrics.ratio(covariance, np.sqrt(np.maximum(total, 0) * np.maximum(y_total, 0))).clip(-1, 1),
            "rmse": np.sqrt(sums[5] / num_rows),
            "mae": sums[6] / num_rows,
            "r2": np.where(total == 0, np.where(sums[5] == 0, 1.0, 0.0), 1 - metrics.ratio(sums[5], total)),
        }

    return scores


def _weighted_ranks(numbers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from weights [resamples, rows] to the rank of each of `numbers` [rows] minus the mean rank."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=np.nan) != 0)  # of equal numbers
    place = np.empty(len(numbers), dtype=np.int64)
    place[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(numbers)))

    def ranks(weights: np.ndarray) -> np.ndarray:
        counts = np.add.reduceat(weights[:, order], starts, axis=1)
        up_to = counts.cumsum(axis=1)
        centred: np.ndarray = (up_to - (counts + up_to[:, -1:]) / 2)[:, place]
        return centred

    return ranks


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("...r,...r->...", a, b))


def _check(targets: np.ndarray, values: np.ndarray, names: Sequence[str]) -> None:
    if targets.shape[1:] != (len(names),) or not np.issubdtype(targets.dtype, np.floating):
        raise DataError(
            f"Expected targets as floats of shape [rows, outputs] for {len(names)} names, found {targets.dtype} of "
            f"shape {list(targets.shape)}. Pass one row for each text and one column for each output."
        )
    metrics.check_rows(targets)
    metrics.check_like(values, targets, "values")
    for what, numbers, way_out in (
        ("targets", targets, "Remove these rows."),
        ("values", values, "The model diverged: lower the learning rate, or train in float32."),
    ):
        wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
        if len(wrong):
            raise DataError(
                f"Expected finite {what}, found NaN or infinity in {len(wrong)} of {len(numbers)} rows, first in row "
                f"{wrong[0]}. {way_out}"
            )
