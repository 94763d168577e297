"""Scores of predicted numbers against scipy and scikit-learn, and the intervals against resampling row by row."""

import re

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation import uncertainty
from nlptl.evaluation.metrics import Score
from nlptl.evaluation.regression import scorer
from nlptl.evaluation.report import score_table

METRICS = ["spearman", "pearson", "rmse", "mae", "r2"]


def numbers_of(rows, outputs, *, noise=0.5, seed=0, offset=0.0):
    """Return targets with ties and values that are near them."""
    rng = np.random.default_rng([seed, rows, outputs])
    targets = np.round(rng.normal(size=(rows, outputs)), 1) + offset
    return targets, targets + noise * rng.normal(size=(rows, outputs))


def by_reference(targets, values):
    """Return the scores [metrics, outputs] of scipy and scikit-learn, with 0 for undefined correlations."""
    columns = list(zip(targets.T, values.T, strict=True))
    constant = [np.ptp(t) == 0 or np.ptp(v) == 0 for t, v in columns]
    raw = {"multioutput": "raw_values"}
    return np.array(
        [
            [0 if c else stats.spearmanr(*pair)[0] for c, pair in zip(constant, columns, strict=True)],
            [0 if c else stats.pearsonr(*pair)[0] for c, pair in zip(constant, columns, strict=True)],
            sklearn.metrics.root_mean_squared_error(targets, values, **raw),
            sklearn.metrics.mean_absolute_error(targets, values, **raw),
            sklearn.metrics.r2_score(targets, values, **raw),
        ]
    )


def scored(targets, values, *, names, **options):
    return scorer(targets, values, names=names).score(**options)


def values_of(scores):
    return [score.value for score in scores.values()]


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(("rows", "outputs", "noise"), [(2, 1, 1.0), (5, 2, 9.0), (200, 1, 0.5), (100, 7, 0.1)])
def test_scores_equal_scipy_and_scikit_learn(rows, outputs, noise, offset):
    targets, values = numbers_of(rows, outputs, noise=noise, offset=offset)
    expected = by_reference(targets, values)
    names = [f"output {i}" for i in range(outputs)]

    scores = scored(targets, values, names=names, resamples=50)

    assert list(scores) == METRICS
    assert values_of(scores) == pytest.approx(expected.mean(axis=1), rel=1e-7)
    points = scorer(targets, values, names=names).points()
    assert list(points.values()) == pytest.approx(expected.mean(axis=1), rel=1e-7)
    assert all(score.n == rows and score.low <= score.high for score in scores.values())
    assert list(scores.per_class) == (names if outputs > 1 else [])
    for i, row in enumerate(scores.per_class.values()):
        assert list(row) == METRICS
        assert values_of(row) == pytest.approx(expected[:, i], rel=1e-7)


def test_intervals_are_those_of_resampled_rows(monkeypatch):
    targets, values = numbers_of(20, 2)
    drawn = next(uncertainty.resample_rows(20, resamples=100, seed=4))
    expected = np.stack([by_reference(targets[rows], values[rows]) for rows in drawn])

    monkeypatch.setattr(uncertainty, "_DRAWS_AT_ONCE", 7 * 20)
    scores = scored(targets, values, names=["a", "b"], resamples=100, confidence=0.8, seed=4)

    for found, numbers in ((scores, expected.mean(axis=2)), (scores.per_class["b"], expected[:, :, 1])):
        ends = np.quantile(numbers, [0.1, 0.9], axis=0)
        assert [(score.low, score.high) for score in found.values()] == [pytest.approx(pair) for pair in ends.T]


def test_correlations_of_constant_numbers_are_zero():
    targets, values = numbers_of(9, 1)
    tenths = np.full((3, 1), 0.1)  # their mean is rounded to another number
    for pair in ((targets[:3], tenths), (tenths, values[:3]), (tenths, tenths)):
        scores = scored(*pair, names=["a"], resamples=20)
        assert scores["pearson"] == scores["spearman"] == Score(0.0, 0.0, 0.0, len(pair[0]))
    few = np.array([[0.0], [0.0], [0.3]])  # many resamples are constant
    assert scored(few, few, names=["a"], resamples=500)["pearson"] == Score(1.0, 0.0, 1.0, 3)


def test_a_single_row_has_errors_alone():
    """It has no order and no spread: scikit-learn and scipy give NaN for r2 and the correlations."""
    targets, values = numbers_of(1, 2)
    scores = scored(targets, values, names=["a", "b"], resamples=20)
    assert list(scores) == list(scores.per_class["b"]) == ["rmse", "mae"]
    assert scores["mae"].value == pytest.approx(np.abs(targets - values).mean())
    assert "r2" in scored(*numbers_of(2, 1), names=["a"], resamples=20)
    table = score_table(scores, split="test", baseline=scores)
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["rmse", "mae"]


def test_r2_of_constant_targets_is_that_of_scikit_learn():
    targets = np.full((4, 1), 0.1)
    for values in (targets, targets + 1):
        assert scorer(targets, values, names=["a"]).points()["r2"] == sklearn.metrics.r2_score(targets, values)


TARGETS = np.array([[1.0], [0.0], [2.5]])


@pytest.mark.parametrize(
    ("targets", "values", "message"),
    [
        (
            TARGETS[:, 0],
            TARGETS[:, 0],
            "Expected targets as floats of shape [rows, outputs] for 1 names, found float64",
        ),
        (TARGETS.astype(int), TARGETS, "found int64 of shape [3, 1]. Pass one row for each text and one column"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "found float64 of shape [3, 2]."),
        (TARGETS[:0], TARGETS[:0], "Expected one example or more to score, found none."),
        (TARGETS, TARGETS[:2], "of shape [3, 1], that of the targets, found float64 of shape [2, 1]. Pass one row"),
        (
            np.where(TARGETS == 0, np.nan, TARGETS),
            TARGETS,
            "Expected finite targets, found NaN or infinity in 1 of 3 rows, first",
        ),
        (TARGETS, np.full((3, 1), -np.inf), "Expected finite values, found NaN or infinity in 3 of 3 rows"),
    ],
)
def test_bad_numbers_are_refused(targets, values, message):
    with pytest.raises(DataError, match=re.escape(message)):
        scored(targets, values, names=["a"])


def test_other_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="found \\['a'\\] more than once"):
        scored(np.zeros((3, 2)), np.zeros((3, 2)), names=["a", "a"])
    with pytest.raises(ConfigError, match="Expected 1 or more resamples, found 0"):
        scored(TARGETS, TARGETS, names=["a"], resamples=0)
