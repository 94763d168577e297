"""Scores of ranks against scikit-learn, and the intervals against resampling row by row."""

import math
import re

import numpy as np
import pytest
import sklearn.metrics

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation import uncertainty
from nlptl.evaluation.ordinal import median_class, scorer

CASES = [(1, 2), (3, 4), (60, 2), (200, 5), (500, 30)]  # rows, classes


def predictions_of(rows, classes, seed=0):
    """Return labels that leave classes out and probabilities that know something of them."""
    rng = np.random.default_rng([seed, rows, classes])
    labels = rng.integers(classes // 3, classes, size=rows)
    distances = np.abs(np.arange(classes) - labels[:, None] - rng.normal(size=(rows, 1)))
    probabilities = np.exp(-distances) * rng.random((rows, classes))
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def median_of(row):
    """Return the median as the class of the smallest expected distance in ranks."""
    ranks = np.arange(len(row))
    return int(np.argmin([(row * np.abs(ranks - k)).sum() for k in ranks]))


def by_sklearn(labels, probabilities):
    predictions = np.array([median_of(row) for row in probabilities])
    one_class = len({*labels.tolist(), *predictions.tolist()}) == 1
    classes = range(probabilities.shape[1])
    # Without labels= scikit-learn measures distances among the classes that occur, not in ranks.
    settings = {"labels": list(classes), "weights": "quadratic"}
    kappa = 0 if one_class else sklearn.metrics.cohen_kappa_score(labels, predictions, **settings)
    return {
        "quadratic_kappa": kappa,
        "mae": sklearn.metrics.mean_absolute_error(labels, predictions),
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "macro_f1": sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities, labels=list(classes)),
    }


def scored(labels, probabilities, *, names, **options):
    return scorer(labels, probabilities, names=names).score(**options)


def names_of(classes):
    return [f"rank {i}" for i in range(classes)]


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning", "ignore:y_pred contains classes")
@pytest.mark.parametrize("case", CASES)
def test_scores_equal_scikit_learn(case):
    for seed in range(5):
        labels, probabilities = predictions_of(*case, seed=seed)
        expected = pytest.approx(by_sklearn(labels, probabilities), abs=1e-12)
        scores = scored(labels, probabilities, names=names_of(case[1]), resamples=20)
        assert {metric: score.value for metric, score in scores.items()} == expected
        assert scorer(labels, probabilities, names=names_of(case[1])).points() == expected
        assert all(score.n == case[0] and score.low <= score.high for score in scores.values())


def test_per_class_scores_equal_scikit_learn_and_are_nan_without_support():
    labels, probabilities = predictions_of(200, 6)
    precision_recall_f1 = sklearn.metrics.precision_recall_fscore_support(
        labels, median_class(probabilities), labels=range(6), zero_division=0
    )
    scores = scored(labels, probabilities, names=names_of(6), resamples=100)
    assert list(scores.per_class) == names_of(6)
    for i, row in enumerate(scores.per_class.values()):
        assert {score.n for score in row.values()} == {np.count_nonzero(labels == i)}
        if i < 2:
            assert all(math.isnan(number) for s in row.values() for number in (s.value, s.low, s.high))
        else:
            expected = [array[i] for array in precision_recall_f1[:3]]
            assert [score.value for score in row.values()] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning", "ignore:y_pred contains classes")
def test_intervals_are_those_of_resampled_rows():
    labels, probabilities = predictions_of(25, 4)
    scores = scored(labels, probabilities, names=names_of(4), resamples=100, confidence=0.8, seed=4)
    drawn = next(uncertainty.resample_rows(25, resamples=100, seed=4))
    expected = [by_sklearn(labels[rows], probabilities[rows]) for rows in drawn]
    for metric, score in scores.items():
        ends = np.quantile([row[metric] for row in expected], [0.1, 0.9])
        assert [score.low, score.high] == pytest.approx(ends.tolist(), abs=1e-12), metric


@pytest.mark.parametrize(
    ("row", "median"),
    [([0.5, 0.5], 0), ([0.49, 0.51], 1), ([0.4, 0.0, 0.6], 2), ([0.3, 0.3, 0.4], 1), ([1.0, 0.0, 0.0], 0), ([1.0], 0)],
)
def test_median_class(row, median):
    found = median_class(np.array([row], dtype=np.float32))
    assert found.dtype == np.int64
    assert found.tolist() == [median]


def test_kappa_of_one_class_is_zero():
    scores = scored(np.array([1, 1]), np.array([[0.0, 1.0], [0.1, 0.9]]), names=["low", "high"], resamples=10)
    assert (scores["quadratic_kappa"].value, scores["accuracy"].value) == (0, 1)


LABELS = np.array([0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (LABELS * 1.0, PROBABILITIES, "Expected labels as integer ids of shape [rows], found float64"),
        (LABELS + 1, PROBABILITIES, "Expected label ids from 0 to 1, one for each of the 2 names"),
        (LABELS, PROBABILITIES[:2], "for 3 labels and 2 names, found float64 of shape [2, 2]"),
        (LABELS, 3 * PROBABILITIES, "found sum 3 and minimum 0.3 in row 0. Pass the softmax of the logits."),
    ],
)
def test_bad_predictions_are_refused(labels, probabilities, message):
    with pytest.raises(DataError, match=re.escape(message)):
        scored(labels, probabilities, names=["a", "b"])


def test_other_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="Expected 1 or more resamples, found 0"):
        scored(LABELS, PROBABILITIES, names=["a", "b"], resamples=0)
    with pytest.raises(ConfigError, match="Expected different label names"):
        scored(LABELS, PROBABILITIES, names=["a", "a"])
