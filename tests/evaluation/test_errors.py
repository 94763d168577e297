import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from nlptl.evaluation.errors import (
    MOST_PAIRS,
    NONE,
    confused_labels,
    confused_sets,
    confused_spans,
    count_confusions,
)


def test_confusions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(5, size=(2, 300))
    counts = count_confusions(labels, predictions, num_classes=6)
    np.testing.assert_array_equal(counts, confusion_matrix(labels, predictions, labels=range(6)))


def test_pairs_of_labels_the_most_frequent_first():
    labels, predictions = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 0, 1, 2])
    assert confused_labels(labels, predictions, ["a", "b", "c"]) == [
        {"label": "a", "predicted": "b", "count": 2, "share": 0.5},
        {"label": "a", "predicted": "c", "count": 1, "share": 0.25},
        {"label": "b", "predicted": "a", "count": 1, "share": 0.5},
    ]
    assert confused_labels(labels, labels, ["a", "b", "c"]) == []


def test_pairs_are_as_many_as_can_be_read():
    names = [str(i) for i in range(30)]
    labels = np.repeat(np.arange(30), 2)
    found = confused_labels(labels, (labels + 1) % 30, names)
    assert len(found) == MOST_PAIRS


def test_labels_that_are_missed_and_wrongly_given():
    true = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
    predicted = np.array([[0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    assert confused_sets(true, predicted, ["a", "b", "c"]) == [
        {"label": NONE, "predicted": "c", "count": 1, "share": 0.25},
        {"label": "a", "predicted": NONE, "count": 1, "share": pytest.approx(1 / 3)},
        {"label": "a", "predicted": "b", "count": 1, "share": pytest.approx(1 / 3)},
    ]


def test_spans_that_are_missed_wrongly_found_or_found_otherwise():
    true = [["B-per", "I-per", "O", "B-loc", "O", "B-loc"], ["B-per"], ["O", "O"], ["B-org", "I-org", "I-org"]]
    predicted = [["B-per", "O", "O", "B-per", "O", "O"], ["B-per"], ["O", "B-per"], ["B-loc", "B-org", "I-org"]]
    found = {
        (pair["label"], pair["predicted"]): (pair["count"], pair["share"]) for pair in confused_spans(true, predicted)
    }
    assert found == {
        ("per", "per, other borders"): (1, 0.5),
        ("loc", "per"): (1, 0.5),
        ("loc", NONE): (1, 0.5),
        ("org", "org, other borders"): (1, 1.0),
        (NONE, "per"): (1, 0.25),
    }
