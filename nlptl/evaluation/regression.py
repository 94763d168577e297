"""Scores of predicted numbers, one or several for each text, each with the interval that its test set can support."""

from collections.abc import Callable, Sequence

import numpy as np
import scipy

from nlptl.errors import DataError
from nlptl.evaluation.metrics import Score, Scores, check_settings, ratio, with_intervals
from nlptl.evaluation.uncertainty import WeightedScores, resample_weights

METRICS = ("pearson", "spearman", "rmse", "mae", "r2")


def point_scores(targets: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Return the scores of `score_values` without intervals: what choosing a model during training needs."""
    _check(targets, values)
    means = _score_columns(targets.T.astype(np.float64), values.T.astype(np.float64)).mean(axis=1)
    return dict(zip(METRICS, means.tolist(), strict=True))


def score_values(
    targets: np.ndarray,
    values: np.ndarray,
    *,
    names: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Score predicted numbers against true ones.

    A correlation is undefined where the targets or the values are constant; here it is 0, not NaN, in resamples as
    well: constant values say nothing of an order. r2 of constant targets is that of scikit-learn: 1 if all errors are
    0, otherwise 0. All intervals are percentile bootstrap intervals over the rows.

    Args:
        targets: True numbers, floats, shape [rows, outputs].
        values: Predicted numbers, floats, same shape.
        names: Names of the outputs.
        resamples: Number of bootstrap resamples.
        confidence: Share of the resampled scores inside the interval.
        seed: Seed of the resampling.

    Returns:
        pearson, spearman (Pearson of the ranks, equal numbers sharing the mean of theirs), rmse, mae and r2, each the
        mean over the outputs. `per_class` has them for each output by its name, if there are several.

    Raises:
        DataError: If targets, values and names do not fit each other, or a number is not finite.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    check_settings(names, resamples)
    _check(targets, values, names)
    columns = targets.T.astype(np.float64), values.T.astype(np.float64)  # each [outputs, rows]
    scores = _score_columns(*columns)  # [metrics, outputs]
    by_column = [_weighted_column(*column) for column in zip(*columns, strict=True)]
    drawn = np.concatenate(  # [metrics, outputs, resamples]
        [
            np.stack([of_column(weights) for of_column in by_column], axis=1)
            for weights in resample_weights(len(targets), resamples=resamples, seed=seed)
        ],
        axis=2,
    )

    def named(of_scores: np.ndarray, of_drawn: np.ndarray) -> dict[str, Score]:
        values_of = dict(zip(METRICS, of_scores, strict=True))
        drawn_of = dict(zip(METRICS, of_drawn, strict=True))
        return with_intervals(values_of, drawn_of, n=len(targets), confidence=confidence)

    by_output = {name: named(scores[:, i], drawn[:, i]) for i, name in enumerate(names)} if len(names) > 1 else None
    return Scores(named(scores.mean(axis=1), drawn.mean(axis=1)), per_class=by_output)


def weighted_scores(targets: np.ndarray, values: np.ndarray) -> WeightedScores:
    """Return what gives the scores of `score_values`, the mean over the outputs, for rows that count several times.

    Args:
        targets: True numbers, floats, shape [rows, outputs].
        values: Predicted numbers, floats, same shape.

    Raises:
        DataError: If targets and values do not fit each other, or a number is not finite.
    """
    _check(targets, values)
    columns = targets.T.astype(np.float64), values.T.astype(np.float64)
    by_column = [_weighted_column(*column) for column in zip(*columns, strict=True)]

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        means = np.mean([of_column(weights) for of_column in by_column], axis=0)
        return dict(zip(METRICS, means, strict=True))

    return scores


def mean_scores(
    targets: np.ndarray,
    *,
    train_mean: np.ndarray,
    names: Sequence[str],
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Score the baseline that has read no text and predicts the mean of train for every row.

    Args:
        targets: True numbers, floats, shape [rows, outputs].
        train_mean: The mean of each output over the rows of train, floats, shape [outputs].
        names: Names of the outputs.
        resamples: Number of bootstrap resamples.
        confidence: Share of the resampled scores inside the interval.
        seed: Seed of the resampling.

    Raises:
        DataError: If `train_mean` does not hold one number for each name, or `targets` does not fit `names`.
        ConfigError: If `names` repeats a name, or `resamples` or `confidence` is out of range.
    """
    is_float = np.issubdtype(train_mean.dtype, np.floating)
    if train_mean.shape != (len(names),) or not is_float or not np.isfinite(train_mean).all():
        raise DataError(
            f"Expected the mean over train of each of the {len(names)} outputs, finite floats, found "
            f"{train_mean.dtype} of shape {list(train_mean.shape)}. Pass train_targets.mean(axis=0)."
        )
    values = np.broadcast_to(train_mean, (len(targets), len(names)))  # a view: one row in memory
    return score_values(targets, values, names=names, resamples=resamples, confidence=confidence, seed=seed)


def _score_columns(targets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the scores of METRICS over the last axis: [metrics, ...] from two arrays [..., rows]."""
    errors = values - targets
    ranks = (scipy.stats.rankdata(numbers, axis=-1) for numbers in (targets, values))
    squares = _squares(errors)
    total = _squares(_centred(targets))
    without_spread = np.where(squares == 0, 1.0, 0.0)
    return np.stack(
        [
            _correlations(targets, values),
            _correlations(*ranks),
            np.sqrt(squares / errors.shape[-1]),
            np.abs(errors).mean(axis=-1),
            np.where(total == 0, without_spread, 1 - ratio(squares, total)),
        ]
    )


def _weighted_column(targets: np.ndarray, values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives the scores of METRICS of one output, [metrics, resamples], from weights [resamples, rows].

    The rows are sorted once, here: in a resample the rank of a number is how many are smaller, plus half of one and of
    how often the number itself is there.
    """
    order = np.argsort(targets, kind="stable")
    targets, values = targets[order], values[order]
    errors = values - targets
    x, y = targets - targets.mean(), values - values.mean()  # so that little is lost when means are subtracted
    sums_of = np.stack([x, y, x * x, y * y, x * y, errors**2, np.abs(errors)], axis=1)
    x_ranks, y_ranks = _weighted_ranks(targets), _weighted_ranks(values)

    def scores(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, order]
        sums, num_rows = (weights @ sums_of).T, weights.sum(axis=1)
        # Centred, so that their products are exact where those of the ranks would be too large for float64.
        of_x, of_y = x_ranks(weights), y_ranks(weights)
        weighted = weights * of_x
        x_spread, y_spread = _dots(weighted, of_x), _dots(weights * of_y, of_y)
        total = np.where(x_spread > 0, sums[2] - sums[0] ** 2 / num_rows, 0.0)  # 0 exactly, where all are the same
        y_total = np.where(y_spread > 0, sums[3] - sums[1] ** 2 / num_rows, 0.0)
        covariance = sums[4] - sums[0] * sums[1] / num_rows
        return np.stack(
            [
                ratio(covariance, np.sqrt(np.maximum(total, 0) * np.maximum(y_total, 0))).clip(-1, 1),
                ratio(_dots(weighted, of_y), np.sqrt(x_spread) * np.sqrt(y_spread)).clip(-1, 1),
                np.sqrt(sums[5] / num_rows),
                sums[6] / num_rows,
                np.where(total == 0, np.where(sums[5] == 0, 1.0, 0.0), 1 - ratio(sums[5], total)),
            ]
        )

    return scores


def _weighted_ranks(numbers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what gives the rank of each of `numbers` [rows] minus the mean rank, from weights [resamples, rows]."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=np.nan) != 0)  # of each different number
    place = np.empty(len(numbers), dtype=np.int64)
    place[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(numbers)))

    def ranks(weights: np.ndarray) -> np.ndarray:
        counts = np.add.reduceat(weights[:, order], starts, axis=1)
        up_to = counts.cumsum(axis=1)
        centred: np.ndarray = (up_to - (counts + up_to[:, -1:]) / 2)[:, place]
        return centred

    return ranks


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation over the last axis, 0 where one side is constant."""
    a, b = _centred(a), _centred(b)
    correlations: np.ndarray = ratio(_dots(a, b), np.sqrt(_squares(a)) * np.sqrt(_squares(b))).clip(-1, 1)
    return correlations


def _centred(numbers: np.ndarray) -> np.ndarray:
    """Subtract the mean over the last axis; constant numbers become 0 exactly, which rounding would miss."""
    centred: np.ndarray = numbers - numbers.mean(axis=-1, keepdims=True)
    centred[np.ptp(numbers, axis=-1) == 0] = 0
    return centred


def _squares(numbers: np.ndarray) -> np.ndarray:
    return _dots(numbers, numbers)


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
    if targets.size == 0:
        raise DataError("Expected one example or more to score, found none. Pass a split that has rows.")
    if values.shape != targets.shape or not np.issubdtype(values.dtype, np.floating):
        raise DataError(
            f"Expected values as floats of shape {list(targets.shape)}, that of the targets, found {values.dtype} of "
            f"shape {list(values.shape)}. Pass one row for each row of targets."
        )
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
