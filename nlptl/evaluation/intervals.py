"""Scores and their resampled values become scores with intervals."""

from collections.abc import Mapping

import numpy as np

from nlptl.evaluation.metrics import Score
from nlptl.evaluation.uncertainty import percentile_interval


def with_intervals(
    values: Mapping[str, float | np.ndarray], drawn: Mapping[str, np.ndarray], *, n: int, confidence: float
) -> dict[str, Score]:
    """Return each of `values` with the percentile interval of its resampled values.

    Args:
        values: One number for each metric.
        drawn: The same metrics in bootstrap resamples, each of shape [resamples].
        n: Number of examples the scores rest on.
        confidence: Share of the resampled scores inside the interval.

    Raises:
        ConfigError: If `confidence` is not between 0 and 1.
    """
    scores = {}
    for metric, value in values.items():
        low, high = percentile_interval(drawn[metric], confidence=confidence)
        scores[metric] = Score(float(value), float(low), float(high), n)
    return scores
