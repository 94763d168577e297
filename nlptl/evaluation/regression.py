"""Scores of predicted numbers, one or several for each text, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np

from nlptl.errors import DataError
from nlptl.evaluation import metrics
from nlptl.evaluation.uncertainty import WeightedScores


def point_scores(targets: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Return the scores of `score_values` without intervals."""
    return metrics.point_values(weighted_scores(targets, values), len(targets))


def score_values(
    targets: np.ndarray, values: np.ndarray, *, names: Sequence[str], **options: Unpack[metrics.Bootstrap]
) -> metrics.Scores:
    """Score predicted numbers against true ones.

    The correlation of constant targets or values is undefined; here, and in resamples, it is 0. r2 of constant targets
    is that of scikit-learn: 1 if all errors are 0, otherwise 0. Intervals are percentile bootstrap intervals over the
    rows.

    Args:
        targets: True numbers, floats [rows, outputs].
        values: Predicted numbers, floats, same shape.
        names: Names of the outputs.
        options: See `Bootstrap`.

    Returns:
        spearman (equal numbers share their mean rank), pearson, rmse, mae and r2, each the mean over the outputs; only
        rmse and mae for a single row, because the others are undefined. If there are several outputs, `per_class` has
        the scores of each by name.

    Raises:
        DataError: If targets, values and names do not fit each other, or a number is not finite.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    _check(targets, values, names)
    scores = _defined(metrics.bootstrap_scores(weighted_scores(targets, values), len(targets), names=names, **options))
    if len(names) == 1:
        return scores
    columns = {name: weighted_scores(targets[:, [i]], values[:, [i]]) for i, name in enumerate(names)}
    by_output = {name: metrics.bootstrap_scores(column, len(targets), **options) for name, column in columns.items()}
    return metrics.Scores(scores, per_class={name: _defined(found) for name, found in by_output.items()})


def _defined(scores: metrics.Scores) -> metrics.Scores:
    """Leave out correlations and r2, which are undefined for a single row."""
    return metrics.Scores({name: score for name, score in scores.items() if score.n > 1 or name in ("rmse", "mae")})


def weighted_scores(targets: np.ndarray, values: np.ndarray) -> WeightedScores:
    """Return a function from weights to the scores of `score_values`, from targets and values [rows, outputs].

    Raises:
        DataError: If targets and values do not fit each other, or a number is not finite.
    """
    _check(targets, values)
    columns = zip(targets.T.astype(np.float64), values.T.astype(np.float64), strict=True)
    by_column = [_weighted_column(*column) for column in columns]

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        means = np.mean([of_column(weights) for of_column in by_column], axis=0)
        return dict(zip(metrics.METRICS["regression"], means, strict=True))

    return scores


def _weighted_column(targets: np.ndarray, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from weights [resamples, rows] to the scores of one output, [metrics, resamples].

    The rows are sorted only once. The rank of a number in a resample is the count of smaller numbers, plus half of one
    and of the count of the number itself.
    """
    order = np.argsort(targets, kind="stable")
    targets, values = targets[order], values[order]
    errors = values - targets
    x, y = targets - targets.mean(), values - values.mean()  # little precision is lost when means are subtracted
    sums_of = np.stack([x, y, x * x, y * y, x * y, errors**2, np.abs(errors)], axis=1)
    x_ranks, y_ranks = _weighted_ranks(targets), _weighted_ranks(values)

    def scores(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, order]
        sums, num_rows = (weights @ sums_of).T, weights.sum(axis=1)
        # Centred: products of the ranks themselves could be too large for float64 to be exact.
        of_x, of_y = x_ranks(weights), y_ranks(weights)
        weighted = weights * of_x
        x_spread, y_spread = _dots(weighted, of_x), _dots(weights * of_y, of_y)
        total = np.where(x_spread > 0, sums[2] - sums[0] ** 2 / num_rows, 0.0)  # exactly 0 if all are equal
        y_total = np.where(y_spread > 0, sums[3] - sums[1] ** 2 / num_rows, 0.0)
        covariance = sums[4] - sums[0] * sums[1] / num_rows
        return np.stack(
            [
                metrics.ratio(_dots(weighted, of_y), np.sqrt(x_spread) * np.sqrt(y_spread)).clip(-1, 1),
                metrics.ratio(covariance, np.sqrt(np.maximum(total, 0) * np.maximum(y_total, 0))).clip(-1, 1),
                np.sqrt(sums[5] / num_rows),
                sums[6] / num_rows,
                np.where(total == 0, np.where(sums[5] == 0, 1.0, 0.0), 1 - metrics.ratio(sums[5], total)),
            ]
        )

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


def _check(targets: np.ndarray, values: np.ndarray, names: Sequence[str] | None = None) -> None:
    columns = f" for {len(names)} names" if names is not None else ""
    fits = targets.ndim == 2 and (names is None or targets.shape[1] == len(names))
    if not fits or not np.issubdtype(targets.dtype, np.floating):
        raise DataError(
            f"Expected targets as floats of shape [rows, outputs]{columns}, found {targets.dtype} of shape "
            f"{list(targets.shape)}. Pass one row for each text and one column for each output."
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
