"""Whether one of two systems is better than the other on the same examples, or a test set cannot tell.

What is compared are scores of resampled rows: any function of how often each row counts (`WeightedScores`), such as
`lambda weights: {"accuracy": weights @ is_correct / weights.sum(axis=1)}`, or the `weighted_scores` of the kinds of
tasks beside this file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.uncertainty import WeightedScores, percentile_interval, resample_weights, row_chunks

_ROUNDING = 1e-10
"""Differences that are equal but for rounding are this share of the scores apart at most."""


@dataclass(frozen=True)
class Difference:
    """A score of a system minus that of another one, the ends of its interval, and its standard error."""

    value: float
    low: float
    high: float
    standard_error: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Return the exact two-sided p-value for two systems being right on equally many examples.

    Of the examples that one system alone has right, each is one of either system with probability 1/2 if they are
    equally good: a binomial test.

    Args:
        correct_a: Whether the first system has each example right, bool [rows].
        correct_b: The same of the second one.

    Raises:
        DataError: If the two are not of the same examples.

    Source:
        McNemar 1947, doi:10.1007/BF02295996, with binomial in place of normal probabilities.
    """
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1:
        raise DataError(
            f"Expected whether each of the same examples is right, [rows], found shapes {list(correct_a.shape)} and "
            f"{list(correct_b.shape)}. Score both systems on the same examples."
        )
    a_alone = int(np.count_nonzero(correct_a.astype(bool) & ~correct_b.astype(bool)))
    b_alone = int(np.count_nonzero(correct_b.astype(bool) & ~correct_a.astype(bool)))
    return float(scipy.stats.binomtest(a_alone, a_alone + b_alone).pvalue) if a_alone + b_alone else 1.0


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

    Args:
        score_a: From weights [resamples, rows] the scores of the first system by name, each [resamples].
        score_b: The same of the second one.
        num_rows: Number of rows.
        resamples: Number of bootstrap resamples.
        confidence: Share of the resampled differences inside the percentile interval.
        seed: Seed of the resampling.

    Raises:
        ConfigError: If `resamples` or `confidence` is out of range.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, sections 8.3 and 13.3; on pairs of systems, Koehn
        2004, Statistical Significance Tests for Machine Translation Evaluation, section 4.
    """
    _check_resamples(resamples, at_least=2)
    whole = np.ones((1, num_rows))
    values = _subtract(score_a(whole), score_b(whole))
    chunks = [_subtract(score_a(w), score_b(w)) for w in resample_weights(num_rows, resamples=resamples, seed=seed)]
    differences = {}
    for name, value in values.items():
        drawn = np.concatenate([chunk[name] for chunk in chunks])
        low, high = percentile_interval(drawn, confidence=confidence)
        differences[name] = Difference(float(value[0]), float(low), float(high), float(drawn.std(ddof=1)))
    return differences


def randomization_test(
    score: WeightedScores, num_rows: int, *, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Return the two-sided p-value of each difference of scores, if it did not matter which system said what.

    In each resample the outputs of the two systems change places, row by row, with probability 1/2. The p-value is
    (hits + 1) / (resamples + 1), hits being the resamples in which the scores are as far apart as they are, or more.

    Args:
        score: From weights [resamples, 2 * rows] the scores by name, each [resamples]; the first half of the rows are
            those of the first system, the second half the same rows of the second one.
        num_rows: Number of rows of one system.
        resamples: Number of resamples; no p-value is smaller than one over them.
        seed: Seed of the resampling.

    Raises:
        ConfigError: If `resamples` is less than 1.

    Source:
        Noreen 1989, Computer-Intensive Methods for Testing Hypotheses; Yeh 2000, More accurate tests for the
        statistical significance of result differences, section 3.3.
    """
    _check_resamples(resamples, at_least=1)
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
    """Return p-values that are corrected for their number: one below 0.05 is a false alarm among all in 5 % at most.

    Args:
        p_values: Of all tests that were made, shape [tests].

    Raises:
        DataError: If they are no numbers from 0 to 1.

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
    """Return the smallest true difference that a two-sided test finds with probability `power`.

    It is (z(1 - level / 2) + z(power)) standard errors of the difference, 2.8 of them by default.

    Args:
        standard_error: Of the difference, such as that of `paired_bootstrap`.
        level: Share of false alarms.
        power: Share of true differences that are found.

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
    """Return the smallest true difference in accuracy that McNemar's test finds with probability `power`.

    It solves sqrt(rows) d = z(1 - level / 2) sqrt(s) + z(power) sqrt(s - d^2) for d, s being the share of examples that
    one system alone has right.

    Args:
        num_rows: Examples in the test set.
        discordant_share: From the data of two systems; of two equally accurate ones whose mistakes have nothing to do
            with each other it is 2 accuracy (1 - accuracy), and less where they make the same ones.
        level: Share of false alarms.
        power: Share of true differences that are found.

    Returns:
        The difference, None where even one as large as `discordant_share` would not be found.

    Raises:
        ConfigError: If `level` or `power` is not between 0 and 1.

    Source:
        Connor 1987, Sample Size for Testing Differences in Proportions for the Paired-Sample Design, Biometrics 43,
        207-211: his sample size, solved for the difference.
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


def _check_resamples(resamples: int, *, at_least: int) -> None:
    if resamples < at_least:
        raise ConfigError(
            f"Expected {at_least} or more resamples, found {resamples}. Pass resamples=2000, the default."
        )
