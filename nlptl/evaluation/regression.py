"""Scores of predicted numbers, one or several for each text, each with the interval that its test set can support."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from nlptl.errors import DataError
from nlptl.evaluation.metrics import Score, Scores, check_settings, ratio, with_intervals
from nlptl.evaluation.uncertainty import resample_rows

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
    drawn = np.concatenate(  # [metrics, outputs, resamples]
        [
            # Output by output, so that memory does not grow with their number.
            np.stack(
                [_score_columns(target[rows], value[rows]) for target, value in zip(*columns, strict=True)], axis=1
            )
            for rows in resample_rows(len(targets), resamples=resamples, seed=seed)
        ],
        axis=2,
    )

    def named(of_scores: np.ndarray, of_drawn: np.ndarray) -> dict[str, Score]:
        values_of = dict(zip(METRICS, of_scores, strict=True))
        drawn_of = dict(zip(METRICS, of_drawn, strict=True))
        return with_intervals(values_of, drawn_of, n=len(targets), confidence=confidence)

    by_output = {name: named(scores[:, i], drawn[:, i]) for i, name in enumerate(names)} if len(names) > 1 else None
    return Scores(named(scores.mean(axis=1), drawn.mean(axis=1)), per_class=by_output)


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
    ranks = (stats.rankdata(numbers, axis=-1) for numbers in (targets, values))
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


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation over the last axis, 0 where one side is constant."""
    a, b = _centred(a), _centred(b)
    covariances = np.einsum("...r,...r->...", a, b)
    correlations: np.ndarray = ratio(covariances, np.sqrt(_squares(a)) * np.sqrt(_squares(b))).clip(-1, 1)
    return correlations


def _centred(numbers: np.ndarray) -> np.ndarray:
    """Subtract the mean over the last axis; constant numbers become 0 exactly, which rounding would miss."""
    centred: np.ndarray = numbers - numbers.mean(axis=-1, keepdims=True)
    centred[np.ptp(numbers, axis=-1) == 0] = 0
    return centred


def _squares(numbers: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("...r,...r->...", numbers, numbers))


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
