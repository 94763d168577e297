"""Scores of label sets against scikit-learn, the intervals against resampling row by row, thresholds against trying."""

import math
import re

import numpy as np
import pytest
import sklearn.metrics

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation import uncertainty
from nlptl.evaluation.multi_label import cell_losses, scorer, tune_thresholds

# rows, labels, share of true cells
CASES = [(1, 2, 0.5), (1, 3, 0.0), (20, 3, 1.0), (200, 28, 0.05), (400, 6, 0.4)]


def predictions_of(rows, labels, share, *, seed=0, dtype=np.float64):
    """Return targets, probabilities with ties that know something of them, and thresholds of which some are met."""
    rng = np.random.default_rng([seed, rows, labels])
    targets = rng.random((rows, labels)) < share
    probabilities = np.round(np.clip(targets * 0.3 + rng.random((rows, labels)) * 0.8 - 0.05, 0, 1), 2).astype(dtype)
    thresholds = np.round(rng.random(labels) * 0.9 + 0.05, 2)
    thresholds[0] = probabilities[0, 0]
    return targets, probabilities, thresholds


def by_sklearn(targets, probabilities, thresholds):
    predicted = probabilities >= thresholds

    def scored(function, average):
        return function(targets, predicted, average=average, zero_division=0)

    return {
        "micro_f1": scored(sklearn.metrics.f1_score, "micro"),
        "macro_f1": scored(sklearn.metrics.f1_score, "macro"),
        "micro_precision": scored(sklearn.metrics.precision_score, "micro"),
        "micro_recall": scored(sklearn.metrics.recall_score, "micro"),
        "samples_f1": scored(sklearn.metrics.f1_score, "samples"),
        "subset_accuracy": sklearn.metrics.accuracy_score(targets, predicted),
        "hamming_loss": sklearn.metrics.hamming_loss(targets, predicted),
        "log_loss": sklearn.metrics.log_loss(targets.ravel(), probabilities.ravel(), labels=[False, True]),
        "average_precision": sklearn.metrics.average_precision_score(targets, probabilities, average="micro"),
    }


def scored(targets, probabilities, *, thresholds, names, **options):
    return scorer(targets, probabilities, predicted=probabilities >= thresholds, names=names).score(**options)


def names_of(labels):
    return [f"label {i}" for i in range(labels)]


@pytest.mark.filterwarnings("ignore:No positive class found:UserWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_scores_equal_scikit_learn(case, dtype):
    for seed in range(3):
        targets, probabilities, thresholds = predictions_of(*case, seed=seed, dtype=dtype)
        expected = by_sklearn(targets, probabilities, thresholds)
        scores = scored(
            targets.astype(np.int8), probabilities, thresholds=thresholds, names=names_of(case[1]), resamples=20
        )
        tolerance = 1e-12 if dtype == np.float64 else 1e-6
        assert {metric: score.value for metric, score in scores.items()} == pytest.approx(expected, abs=tolerance)
        assert all(score.n == case[0] and score.low <= score.high for score in scores.values())
        points = scorer(targets, probabilities, predicted=probabilities >= thresholds, names=names_of(case[1])).points()
        assert points == pytest.approx(expected, abs=tolerance)


def test_per_class_scores_equal_scikit_learn_and_are_nan_without_support():
    targets, probabilities, thresholds = predictions_of(300, 6, 0.3)
    targets[:, 4] = False
    expected = sklearn.metrics.precision_recall_fscore_support(targets, probabilities >= thresholds, zero_division=0)

    scores = scored(targets, probabilities, thresholds=thresholds, names=names_of(6), resamples=100)

    assert list(scores.per_class) == names_of(6)
    for i, row in enumerate(scores.per_class.values()):
        assert list(row) == ["precision", "recall", "f1"]
        assert {score.n for score in row.values()} == {expected[3][i]}
        if i == 4:
            assert all(math.isnan(number) for s in row.values() for number in (s.value, s.low, s.high))
        else:
            assert [score.value for score in row.values()] == pytest.approx([array[i] for array in expected[:3]])
            assert all(0 <= score.low <= score.high <= 1 for score in row.values())


def test_intervals_are_those_of_resampled_rows():
    targets, probabilities, thresholds = predictions_of(25, 4, 0.2)
    settings = {"names": names_of(4), "resamples": 100, "confidence": 0.8, "seed": 4}
    scores = scored(targets, probabilities, thresholds=thresholds, **settings)
    drawn = next(uncertainty.resample_rows(25, resamples=100, seed=4))
    expected = [by_sklearn(targets[rows], probabilities[rows], thresholds) for rows in drawn]
    for metric, score in scores.items():
        ends = np.quantile([row[metric] for row in expected], [0.1, 0.9])
        assert [score.low, score.high] == pytest.approx(ends.tolist(), abs=1e-12), metric


def test_log_loss_is_clipped_like_scikit_learn():
    targets, probabilities = np.array([[1, 0, 1, 0]]), np.array([[0.0, 1.0, 1.0, 0.0]], dtype=np.float32)
    found = scorer(targets, probabilities, predicted=probabilities >= 0.5, names=names_of(4)).points()["log_loss"]
    assert found == pytest.approx(sklearn.metrics.log_loss(targets[0], probabilities[0]), rel=1e-6)


def test_cell_losses_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    targets, probabilities = rng.integers(2, size=(40, 3)), rng.random((40, 3))
    probabilities[0] = [0, 1, 0.5]
    wanted = [
        [sklearn.metrics.log_loss([t], [p], labels=[0, 1]) for t, p in zip(row, given, strict=True)]
        for row, given in zip(targets, probabilities, strict=True)
    ]
    np.testing.assert_allclose(cell_losses(targets, probabilities), wanted, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_threshold_has_a_better_f1_than_the_tuned_one(dtype):
    for seed in range(20):
        rows = [1, 2, 3, 8, 50][seed % 5]
        targets, probabilities, _ = predictions_of(rows, 5, 0.3, seed=seed, dtype=dtype)
        thresholds = tune_thresholds(targets, probabilities)
        assert thresholds.dtype == np.float64
        for label in range(5):
            truth, column = targets[:, label], probabilities[:, label].astype(np.float64)
            if not truth.any():
                assert thresholds[label] == 0.5
                continue
            every = np.unique([0.0, *column, 1.0])
            midpoints = [t for t in (every[:-1] + every[1:]) / 2 if 0 < t < 1]
            f1 = [sklearn.metrics.f1_score(truth, column >= t, zero_division=0) for t in midpoints]
            best = [t for t, value in zip(midpoints, f1, strict=True) if value == pytest.approx(max(f1), abs=1e-12)]
            assert thresholds[label] in best
            assert abs(thresholds[label] - 0.5) == min(abs(t - 0.5) for t in best)


@pytest.mark.parametrize(
    ("targets", "probabilities", "threshold"),
    [
        ([0, 1, 1], [0.1, 0.2, 0.9], 0.15),
        ([0, 1, 0, 1], [0.2, 0.4, 0.6, 0.8], 0.3),
        ([1, 1], [0.0, 0.0], 0.5),  # only 0 would predict it, and 0 is outside
        ([1, 0], [1.0, 1.0], 0.5),
        ([1, 0], [0.0, 1.0], 0.5),
        ([1, 0], [0.7, math.nextafter(0.7, 0)], 0.7),  # no float lies between them
        ([1], [5e-324], 5e-324),
        ([1, 0], [1.0, math.nextafter(1, 0)], math.nextafter(1, 0) / 2),
        ([0, 0], [0.3, 0.6], 0.5),
    ],
)
def test_tuned_thresholds_at_the_edges(targets, probabilities, threshold):
    assert tune_thresholds(np.array([targets]).T, np.array([probabilities]).T).tolist() == pytest.approx([threshold])


TARGETS = np.array([[1, 0], [0, 1], [1, 1]])
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("targets", "probabilities", "message"),
    [
        (TARGETS * 2, PROBABILITIES, "Expected targets of 0 and 1 as bool or integers of shape [rows, labels]"),
        (TARGETS * 1.0, PROBABILITIES, "found float64 of shape [3, 2]. Pass one row for each text"),
        (TARGETS[:, 0], PROBABILITIES[:, 0], "found int64 of shape [3]."),
        (TARGETS[:0], PROBABILITIES[:0], "Expected one example or more to score, found none."),
        (TARGETS, PROBABILITIES[:2], "as floats of shape [3, 2], that of the targets, found float64 of shape [2, 2]."),
        (TARGETS, TARGETS, "found int64 of shape [3, 2]. Pass one row for each row of targets."),
        (TARGETS, PROBABILITIES * 2, "Expected probabilities from 0 to 1, found 0.2 to 1.8 in row 0. Pass the sigmoid"),
        (TARGETS, np.where(PROBABILITIES == 0.5, np.nan, PROBABILITIES), "found nan to nan in row 2."),
    ],
)
def test_bad_predictions_are_refused(targets, probabilities, message):
    with pytest.raises(DataError, match=re.escape(message)):
        scorer(targets, probabilities, predicted=probabilities >= 0.5, names=["a", "b"])
    with pytest.raises(DataError, match=re.escape(message)):
        tune_thresholds(targets, probabilities)


def test_other_bad_arguments_are_refused():
    settings = {"thresholds": np.array([0.5, 0.5]), "names": ["a", "b"]}
    with pytest.raises(DataError, match=r"shape \[rows, labels\] for 3 names, found int64 of shape \[3, 2\]"):
        scored(TARGETS, PROBABILITIES, **{**settings, "names": ["a", "b", "c"]})
    for predicted in (PROBABILITIES[:, :1] > 0.5, PROBABILITIES):
        with pytest.raises(DataError, match=r"Expected predictions as bool of shape \[3, 2\], that of"):
            scorer(TARGETS, PROBABILITIES, predicted=predicted, names=["a", "b"])
    with pytest.raises(ConfigError, match="Expected different label names, found"):
        scored(TARGETS, PROBABILITIES, **{**settings, "names": ["a", "a"]})
    with pytest.raises(ConfigError, match="Expected 1 or more resamples, found 0"):
        scored(TARGETS, PROBABILITIES, **settings, resamples=0)
