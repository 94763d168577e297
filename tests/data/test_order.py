"""The order is a permutation that no version of any library changes."""

from collections import Counter

import numpy as np
import pytest

from nlptl.data.order import balanced_order, order, stream_key


def test_golden_values():
    assert order(10, 0, 0).tolist() == [3, 4, 5, 1, 7, 9, 2, 8, 0, 6]
    assert stream_key("noise", 0, 0, 0, 0) == 2879271735775765671


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000, 65_537])
def test_permutation(n):
    found = order(n, "split", 7)
    assert found.dtype == np.int64
    assert np.array_equal(np.sort(found), np.arange(n))


def test_orders_differ_by_every_part():
    seen = {tuple(order(50, *parts)) for parts in ((0, 0), (0, 1), (1, 0), ("0", 0, 0), (10,), (1, 0, ""), ("1", "0 "))}
    assert len(seen) == 7
    assert len({stream_key("a", "b"), stream_key("ab"), stream_key("a", "b", ""), stream_key("", "a", "b")}) == 4


def test_every_place_is_equally_likely():
    places = Counter(int(order(5, seed, 0)[0]) for seed in range(5000))
    assert all(abs(count - 1000) < 5 * 28.3 for count in places.values())  # 28.3: one standard deviation


LABELS = {
    "balanced": [0, 1, 2] * 10,
    "skewed": [0] * 5 + [7] * 90 + [3] * 6,
    "one example": [2] + [4] * 50 + [1] * 2,
    "one class": [5] * 9,
    "alone": [0],
    "none": [],
}


def arranged(name):
    """Return the labels in an order that is not that of the classes."""
    labels = np.array(LABELS[name], dtype=np.int64)
    return labels[order(len(labels), name)]


@pytest.mark.parametrize("name", LABELS)
def test_balanced_order_gives_every_class_its_places_and_repeats_last(name):
    labels = arranged(name)
    for epoch in range(5):
        found = balanced_order(labels, 0, epoch)
        assert found.dtype == np.int64
        assert found.shape == labels.shape
        places = Counter(labels[found].tolist())
        assert set(places) == set(labels.tolist())
        assert not places or max(places.values()) - min(places.values()) <= 1
        for label, count in places.items():
            examples = np.flatnonzero(labels == label)
            drawn = np.bincount(found, minlength=len(labels))[examples]
            assert set(drawn.tolist()) <= {count // len(examples), -(-count // len(examples))}


def test_balanced_order_is_a_function_of_labels_and_stream():
    labels = arranged("skewed")
    assert np.array_equal(balanced_order(labels, 0, 1), balanced_order(labels.astype(np.int8).copy(), 0, 1))
    assert len({tuple(balanced_order(labels, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert balanced_order(np.array([1, 0, 1, 1, 1, 1]), 0, 0).tolist() == [0, 4, 1, 1, 5, 1]


def test_balanced_order_draws_every_example_and_extra_place_alike():
    labels = np.array([0, 0, 0, 0, 1, 2, 2])  # 7 places: 2 for each class and 1 more
    drawn = np.concatenate([balanced_order(labels, "seed", epoch) for epoch in range(3000)])
    examples = np.bincount(drawn, minlength=7) / 3000
    # 7 / 3 places for each class. 0.04: about 4 standard deviations.
    np.testing.assert_allclose(examples, [7 / 12] * 4 + [7 / 3] + [7 / 6] * 2, atol=0.04)
    first = np.bincount(labels[drawn.reshape(3000, 7)[:, 0]]) / 3000
    np.testing.assert_allclose(first, 1 / 3, atol=0.04)
