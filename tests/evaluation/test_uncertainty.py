"""Resamples as weights against the resampled rows themselves."""

import numpy as np

from nlptl.evaluation import uncertainty


def test_weights_are_those_of_the_resampled_rows_and_chunks_do_not_change_them(monkeypatch):
    values = np.random.default_rng(0).random((37, 2))
    rows = np.concatenate(list(uncertainty.resample_rows(37, resamples=50, seed=3)))
    assert rows.shape == (50, 37)
    assert set(rows.ravel().tolist()) == set(range(37))

    monkeypatch.setattr(uncertainty, "_DRAWS_AT_ONCE", 3 * 37)
    chunks = list(uncertainty.resample_weights(37, resamples=50, seed=3))

    assert {len(chunk) for chunk in chunks} == {2, 3}
    np.testing.assert_allclose(np.concatenate(chunks) @ values, values[rows].sum(axis=1), rtol=1e-12)
