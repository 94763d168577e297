"""The order is a permutation that no version of any library changes."""

from collections import Counter

import numpy as np
import pytest

from nlptl.data.order import order, stream_key


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
