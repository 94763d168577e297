"""Test whether one of two systems is better than the other on the same examples.

Scores are functions from weights of the rows to scores by name (`WeightedScores`), such as
`lambda weights: {"accuracy": weights @ is_correct / weights.sum(axis=1)}`, or `Scorer.weighted` of any
kind of task.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.uncertainty import (
    WeightedScores,
    check_resamples,
    percentile_interval,
    resample_scores,
    row_chunks,
)

_ROUNDING = 1e-10
"""Largest difference, relative to the scores, that counts as rounding."""


@dataclass(frozen=True)
class Difference:
    """The score of a system minus that of another, the ends of the interval, and the standard error."""

    value: float
    low: float
    high: float
    standard_error: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Return the exact two-sided p-value of the hypothesis that two systems are equally accurate.

    It is a binomial test on the examples that only one of the systems gets right. `correct_a` and `correct_b` say
    which examples each of them gets right, bool [rows].

    Raises:
        DataError: If the shapes differ.

    Source:
        McNemar 1947, doi:10.1007/BF02295996, with exact instead of normal probabilities.
    """
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1:
        raise DataError(
            f"Expected two arrays [rows] of the same examples, found shapes {list(correct_a.shape)} and "
            f"{list(correct_b.shape)}. Score both systems on the same examples."
        )
    only_a = int(np.count_nonzero(correct_a.astype(bool) & ~correct_b.astype(bool)))
    only_b = int(np.count_nonzero(correct_b.astype(bool) & ~correct_a.astype(bool)))
    return float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired_bootstrap(
    score_a: WeightedScores,
    score_b: WeightedScores,
    num_rows: int,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Return the scores of the first system minus those of the second, both on the same resamples of the rows.

    `confidence` is the fraction of resampled differences inside the percentile interval.

    Raises:
        ConfigError: If `resamples` or `confidence` is out of range.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 8.3 and 13.3; on pairs of systems, Koehn
        2004, Statistical Significance Tests for Machine Translation Evaluation, section 4.
    """
    check_resamples(resamples, at_least=2)

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        return _subtract(score_a(weights), score_b(weights))

    values = difference(np.ones((1, num_rows)))
    differences = {}
    for name, drawn in resample_scores(difference, num_rows, resamples=resamples, seed=seed).items():
        low, high = percentile_interval(drawn, confidence=confidence)
        differences[name] = Difference(float(values[name][0]), float(low), float(high), float(drawn.std(ddof=1)))
    return differences


def randomization_test(
    score: WeightedScores, num_rows: int, *, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Return the two-sided p-value of each difference of scores by approximate randomization.

    Each resample swaps the outputs of the two systems, row by row, with probability 1/2. The p-value is
    (hits + 1) / (resamples + 1), where hits counts the resamples with at least the observed difference.

    Args:
        score: Scores of 2 * rows rows: those of the first system, then the same rows of the second one.
        num_rows: Number of rows of one system.
        resamples: Number of resamples; the smallest possible p-value is 1 / (resamples + 1).
        seed: Seed of the resampling.

    Raises:
        ConfigError: If `resamples` is less than 1.

    Source:
        Noreen 1989, Computer-Intensive Methods for Testing Hypotheses; Yeh 2000, More accurate tests for the
        statistical significance of result differences, section 3.3.
    """
    check_resamples(resamples)
    rng = np.random.default_rng(seed % 2**64)
    of_a, of_b = (score(np.repeat(np.array([[a, 1.0 - a]]), num_rows, axis=1)) for a in (1.0, 0.0))
    hits = dict.fromkeys(of_a, 0)
    for chunk in row_chunks(resamples, draws_each=2 * num_rows):
        stays = rng.integers(2, size=(chunk.stop - chunk.start, num_rows), dtype=np.int32).astype(np.float64)
        drawn = _subtract(score(np.hstack([stays, 1 - stays])), score(np.hstack([1 - stays, stays])))
        for name in hits:
            observed = abs(of_a[name][0] - of_b[name][0])
            rounding = _ROUNDING * max(abs(of_a[name][0]), abs(of_b[name][0]))
            hits[name] += int(np.count_nonzero(np.abs(drawn[name]) >= observed - rounding))
    return {name: (count + 1) / (resamples + 1) for name, count in hits.items()}


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the p-values of all tests, corrected so that any is below 0.05 by chance in at most 5 % of cases.

    Raises:
        DataError: If they are not numbers from 0 to 1.

    Source:
        Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 65-70.
    """
    found = np.asarray(p_values, dtype=np.float64)
    if found.ndim != 1 or not np.all((found >= 0) & (found <= 1)):
        raise DataError(f"Expected p-values from 0 to 1, found {found.tolist()}. Pass one for each test.")
    ascending = np.argsort(found, kind="stable")
    factors = np.arange(len(found), 0, -1)
    corrected = np.empty_like(found)
    corrected[ascending] = np.minimum(np.maximum.accumulate(factors * found[ascending]), 1)
    return corrected


def smallest_difference(standard_error: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that a two-sided test detects with probability `power`.

    It is z(1 - level / 2) + z(power) standard errors of the difference, such as that of `paired_bootstrap`; 2.8 of them
    by default. `level` is the probability of a false positive.

    Raises:
        ConfigError: If `level` or `power` is not between 0 and 1.

    Source:
        Bloom 1995, Minimum Detectable Effects, doi:10.1177/0193841X9501900504.
    """
    of_level, of_power = _quantiles(level, power)
    return (of_level + of_power) * standard_error


def smallest_accuracy_difference(
    num_rows: int, discordant_share: float, *, level: float = 0.05, power: float = 0.8
) -> float | None:
    """Return the smallest true difference in accuracy that McNemar's test detects with probability `power`.

    It solves sqrt(rows) d = z(1 - level / 2) sqrt(s) + z(power) sqrt(s - d^2) for d, where s is `discordant_share`.

    Args:
        num_rows: Examples in the test set.
        discordant_share: Fraction of examples that only one system gets right. It is 2 accuracy (1 - accuracy) for two
            equally accurate systems with independent mistakes.
        level: Probability of a false positive.
        power: Probability of detecting a true difference.

    Returns:
        The difference; None if even one as large as `discordant_share` would not be detected.

    Raises:
        ConfigError: If `level` or `power` is not between 0 and 1.

    Source:
        Connor 1987, Sample Size for Testing Differences in Proportions for the Paired-Sample Design, Biometrics 43,
        207-211, solved for the difference.
    """
    of_level, of_power = _quantiles(level, power)
    inside = num_rows + of_power**2 - of_level**2
    if inside < 0:
        return None
    root = math.sqrt(discordant_share) * (of_level * math.sqrt(num_rows) + of_power * math.sqrt(inside))
    difference = root / (num_rows + of_power**2)
    return difference if difference <= discordant_share else None


def _subtract(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a[name] - b[name] for name in a}


def _quantiles(level: float, power: float) -> tuple[float, float]:
    if not (0 < level < 1 and 0 < power < 1):
        raise ConfigError(
            f"Expected a level and a power between 0 and 1, found {level} and {power}. Pass level=0.05, power=0.8."
        )
    return float(scipy.stats.norm.ppf(1 - level / 2)), float(scipy.stats.norm.ppf(power))
