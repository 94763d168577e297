"""The baseline of each kind of task, which reads no text, against scikit-learn's dummies."""

import math

import numpy as np
import pytest
import sklearn.metrics
from sklearn.dummy import DummyClassifier, DummyRegressor

from nlptl import MultiLabel, Ordinal, Regression, SingleLabel, TokenLabels
from nlptl.evaluation.metrics import Score


def test_single_labels_get_the_most_frequent_one_of_train():
    train, test = np.array([0, 1, 1, 2, 1, 0]), np.array([0, 1, 1, 2])
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((6, 1)), train)
    scores = SingleLabel(("a", "b", "c")).baseline(test, train_targets=train, seed=0)
    predicted, shares = dummy.predict(np.zeros((4, 1))), dummy.predict_proba(np.zeros((4, 1)))
    assert scores["accuracy"].value == sklearn.metrics.accuracy_score(test, predicted)
    assert scores["matthews"].value == 0
    assert scores["log_loss"].value == pytest.approx(sklearn.metrics.log_loss(test, shares, labels=range(3)))


def test_ranks_get_the_median_one_of_train():
    train, test = np.repeat([0, 1, 2], [5, 3, 4]), np.array([0, 1, 2, 2])
    scores = Ordinal(("a", "b", "c")).baseline(test, train_targets=train, seed=0)
    assert scores["accuracy"].value == (test == np.median(train)).mean()
    assert scores["mae"].value == np.abs(test - np.median(train)).mean()
    assert scores["quadratic_kappa"].value == 0
    assert scores["log_loss"].value == pytest.approx(-math.log(5 * 3 * 4 * 4 / 12**4) / 4)


@pytest.mark.parametrize("kind", [SingleLabel, Ordinal])
def test_a_label_that_train_lacks_counts_as_half_a_text(kind: type[SingleLabel]):
    scores = kind(("new", "old")).baseline(np.array([0]), train_targets=np.array([1]), seed=0)
    assert scores["accuracy"].value == 0
    assert scores["log_loss"].value == pytest.approx(math.log(3))


def test_label_sets_get_the_most_frequent_label_of_train():
    train = np.array([[0, 1, 1], [0, 1, 0], [1, 0, 1], [0, 1, 1], [0, 0, 0]])
    test = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]])
    scores = MultiLabel(("a", "b", "c")).baseline(test, train_targets=train, seed=0)
    predicted, shares = np.tile([False, True, False], (4, 1)), np.tile(train.mean(axis=0), (4, 1))
    assert scores["micro_f1"].value == sklearn.metrics.f1_score(test, predicted, average="micro")
    assert scores["log_loss"].value == pytest.approx(sklearn.metrics.log_loss(test.ravel(), shares.ravel()))
    precision = sklearn.metrics.average_precision_score(test, shares, average="micro")
    assert scores["average_precision"].value == pytest.approx(precision)
    assert scores.per_class["b"]["recall"] == Score(1.0, 1.0, 1.0, 1)


def test_numbers_get_the_mean_of_train():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(30, 2)), rng.normal(size=(20, 2))
    values = DummyRegressor().fit(np.zeros((30, 1)), train).predict(np.zeros((20, 1)))
    scores = Regression(("a", "b")).baseline(test, train_targets=train, seed=0)
    assert scores["rmse"].value == pytest.approx(sklearn.metrics.root_mean_squared_error(test, values))
    assert scores["r2"].value == pytest.approx(sklearn.metrics.r2_score(test, values))
    assert scores["spearman"].value == scores["pearson"].value == 0


def test_words_get_no_span():
    targets = np.empty(2, dtype=object)
    targets[:] = [np.array([0, 1, 2]), np.array([0, 0])]
    scores = TokenLabels(("O", "B-x", "I-x")).baseline(targets, train_targets=targets, seed=0)
    assert scores["span_f1"].value == 0
    assert scores["token_accuracy"].value == 3 / 5
