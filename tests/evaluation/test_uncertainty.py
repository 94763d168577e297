"""Sums over resampled rows against summing the rows one by one."""

import numpy as np
from scipy import sparse

from nlptl.evaluation import uncertainty


def test_sums_are_those_of_the_resampled_rows_and_chunks_do_not_change_them(monkeypatch):
    rng = np.random.default_rng(0)
    dense, counts = rng.random((37, 2)), rng.integers(3, size=(37, 5))
    rows = np.concatenate(list(uncertainty.resample_rows(37, resamples=50, seed=3)))
    assert rows.shape == (50, 37)
    assert set(rows.ravel().tolist()) == set(range(37))

    monkeypatch.setattr(uncertainty, "_DRAWS_AT_ONCE", 3 * 37)
    values = [dense, sparse.csr_array(counts), np.zeros((37, 0)), sparse.csr_array((37, 0))]
    of_dense, of_counts, *empty = uncertainty.resample_sums(values, resamples=50, seed=3)

    np.testing.assert_allclose(of_dense, dense[rows].sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(of_counts, counts[rows].sum(axis=1))
    assert [array.shape for array in empty] == [(50, 0), (50, 0)]
