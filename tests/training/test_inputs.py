"""What the loop reads is what the split holds."""

import numpy as np
import pytest

from nlptl import Examples
from nlptl.data.tokens import Tokens
from nlptl.training.inputs import Inputs, check_each_once


@pytest.mark.parametrize(
    ("indices", "found"),
    [
        ([0, 1], "found row 3 0 times and 0 more such errors"),
        ([0, 1, 1], "found row 2 2 times and 1 more such errors"),
        ([0, 1, 2, 3], "found unknown index 3 1 times and 0 more"),
        ([], "found row 1 0 times and 2 more"),
    ],
)
def test_examples_that_are_not_computed_once_are_an_error(indices, found):
    examples = Examples.from_lists(["a", "b", "c"], ["x", "y", "x"], split="test")
    inputs = Inputs(examples, Tokens(np.zeros(3, dtype=np.int32), np.arange(4), 0, 0), np.array([0, 1, 0]))
    check_each_once(np.array([2, 0, 1]), inputs)
    with pytest.raises(RuntimeError, match=rf"each of the 3 examples of .* \(test\) exactly once, {found}"):
        check_each_once(np.array(indices, dtype=np.int64), inputs)
