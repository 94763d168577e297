"""Label names and their ids."""

import numpy as np
import pytest

from nlptl.errors import DataError
from nlptl.labels import Labels


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["7", "007", "8"], ("007", "7", "8")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["\u00e9t\u00e9", "Zoo", "zoo"], ("Zoo", "zoo", "\u00e9t\u00e9")),
        (["\u00b2", "1"], ("1", "\u00b2")),
    ],
)
def test_names_are_found_once_and_in_order(names: list[str], expected: tuple[str, ...]):
    assert Labels.from_names(names).names == expected
    assert Labels.from_names(reversed(names)).names == expected


def test_ids_follow_the_order_of_the_names():
    labels = Labels(("neg", "pos", "mixed"))
    ids = labels.ids(["mixed", "neg", "neg"])
    assert ids.dtype == np.int64
    assert ids.tolist() == [2, 0, 0]
    assert [labels.names[i] for i in ids] == ["mixed", "neg", "neg"]
    assert len(labels) == 3


def test_no_names_give_no_ids():
    ids = Labels(("a", "b")).ids([])
    assert ids.shape == (0,)
    assert ids.dtype == np.int64


@pytest.mark.parametrize("names", [(), ("a",), ("a", "a"), ("a", "b", "a")])
def test_two_different_names_are_needed(names: tuple[str, ...]):
    with pytest.raises(DataError, match=r"Expected two or more different label names, found \["):
        Labels(names)


def test_one_class_only_is_refused():
    with pytest.raises(DataError, match=r"found \['a'\].*check the label column"):
        Labels.from_names(["a", "a"])


def test_unknown_names_are_listed_once_and_sorted():
    with pytest.raises(DataError, match="Expected labels 'a', 'b', found 'c', 'd' as well"):
        Labels(("a", "b")).ids(["d", "a", "c", "d"])


def test_many_unknown_names_are_shortened():
    with pytest.raises(DataError, match=r"'19', \.\.\. \(30 in all\) as well") as error:
        Labels(("a", "b")).ids([f"{i:02}" for i in range(30)])
    assert "'20'" not in str(error.value)
