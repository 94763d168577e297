"""Find slices of a test set on which a model is worse, with a test that controls false alarms.

Slices overlap, and there may be hundreds. They are tested together by permutation: the scores of the examples are
shuffled many times, and a slice is flagged if it is worse than the worst slice of all but 5 % of the shuffles
(single-step max-T, Westfall and Young 1993, Resampling-Based Multiple Testing, chapter 2). If no slice is related to
the scores, the probability of any flag is at most 5 %, however the slices overlap.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

MIN_SIZE = 20
"""Smallest number of examples of a slice, and of the rest."""
DEALS = 999
MAX_CHANCE = 0.05
"""Probability of a flag if no slice is worse than another."""
DEALS_AT_ONCE = 100
TOLERANCE = 1e-3
"""Statistics that differ by less count as equal: single precision allows no more."""


@dataclass(frozen=True)
class RowScores:
    """A score that is a ratio of sums over examples: the parts over the wholes.

    For accuracy, the part is 1 if the prediction is right and 0 otherwise, and the whole is 1. For the F1 of spans, the
    part is twice the number of spans found, and the whole is the number of true and of predicted spans.
    """

    metric: str
    parts: np.ndarray  # float64 [examples]
    wholes: np.ndarray  # float64 [examples], 0 or more
    lower_is_better: bool = False

    @property
    def overall(self) -> float:
        """The score of all examples; NaN if the wholes are 0."""
        return ratio_of(self.parts.sum(), self.wholes.sum())

    @property
    def is_share(self) -> bool:
        """Whether the score is a fraction of the examples."""
        return bool((self.wholes == 1).all() and np.isin(self.parts, (0, 1)).all())


@dataclass(frozen=True)
class Slice:
    """The examples with a value of a column."""

    column: str
    value: str
    rows: np.ndarray  # bool [examples]


@dataclass(frozen=True)
class SliceScore:
    """The score of a slice with its 95 % interval, and the difference from the rest.

    `p` is the probability that any of the tested slices is as bad by chance, so it needs no correction.
    """

    column: str
    value: str
    n: int
    score: float
    low: float
    high: float
    difference: float
    p: float
    flagged: bool


def score_slices(slices: Sequence[Slice], scores: RowScores, *, seed: int = 0) -> list[SliceScore]:
    """Score slices and test each against the rest of the examples.

    The statistic of a slice is the sum of the shortfalls of its examples from the overall score (the residual of a
    ratio, Cochran 1977, Sampling Techniques, section 6.4). It is standardized for sampling without replacement and
    transformed to a normal distribution by its skewness (Wilson and Hilferty 1931, doi:10.1073/pnas.17.12.684), so that
    slices of all sizes are equally likely to be the worst of a shuffle.

    Args:
        slices: Slices; too small ones, too large ones and repetitions are left out, see `distinct`.
        scores: The contribution of each example to the score.
        seed: Seed of the shuffles.

    Returns:
        Flagged slices first: the one with the strongest evidence, then the one with the strongest evidence on the
        examples outside it, and so on, so that slices with a common cause do not hide others. Then the other slices,
        the strongest evidence first.
    """
    chosen = distinct(slices)
    lack = scores.overall * scores.wholes - scores.parts
    lack = -lack if scores.lower_is_better else lack
    if not chosen or not np.isfinite(lack).all():
        return []
    found, p = np.zeros(len(chosen)), np.ones(len(chosen))
    if np.ptp(lack) > 1e-9:  # otherwise all examples are equally good
        found, p = _compare(np.stack([part.rows for part in chosen]), lack, seed)
    rows = [_score(part, scores, chance) for part, chance in zip(chosen, p.tolist(), strict=True)]
    flagged = [i for i, row in enumerate(rows) if row.flagged]
    others = sorted((i for i, row in enumerate(rows) if not row.flagged), key=lambda i: -found[i])
    return [rows[i] for i in [*_one_after_the_other(chosen, flagged, lack), *others]]


def distinct(slices: Sequence[Slice]) -> list[Slice]:
    """Return the slices with `MIN_SIZE` examples inside and outside; of equal slices, the first."""
    first: dict[bytes, Slice] = {}
    for part in slices:
        size = int(part.rows.sum())
        if MIN_SIZE <= size <= len(part.rows) - MIN_SIZE:
            first.setdefault(np.packbits(part.rows).tobytes(), part)
    return list(first.values())


def interval_of(parts: np.ndarray, wholes: np.ndarray, *, is_share: bool) -> tuple[float, float]:
    """Return the 95 % interval of a score of some examples.

    For a fraction it is Wilson's (1927, recommended by Brown, Cai and DasGupta 2001, doi:10.1214/ss/1009213286). For
    other ratios it is the ratio plus and minus a quantile of Student's t times the standard error (Cochran 1977,
    section 6.4), limited to 0 and 1 if no example can be beyond.
    """
    # scipy.special is enough: importing scipy.stats takes longer than testing all slices.
    n, whole = len(parts), wholes.sum()
    if is_share:
        share, z = parts.sum() / n, ndtri(0.975)
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        reach = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        return float(centre - reach) if share > 0 else 0.0, float(centre + reach) if share < 1 else 1.0
    if n < 2 or whole == 0:
        return math.nan, math.nan
    score = parts.sum() / whole
    error = np.sqrt(n * (parts - score * wholes).var(ddof=1)) / whole
    reach = float(stdtrit(n - 1, 0.975) * error)
    low, high = float(score - reach), float(score + reach)
    return max(low, 0.0) if (parts >= 0).all() else low, min(high, 1.0) if (parts <= wholes).all() else high


def ratio_of(part: float, whole: float) -> float:
    """Return part / whole; NaN if the whole is 0."""
    return float(part / whole) if whole else math.nan


def _compare(members: np.ndarray, lack: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistic of each slice, and the probability that the largest of all is as large by chance."""
    moments = _deal_moments(lack, members.sum(axis=1))
    single = members.astype(np.float32)  # [slices, examples]
    found = _normal(single @ lack.astype(np.float32), *moments)
    deals = _deals(lack.astype(np.float32), seed)
    worst = np.sort(np.concatenate([_normal((single @ deal).T, *moments).max(axis=1) for deal in deals]))
    num_as_bad = len(worst) - np.searchsorted(worst, found - TOLERANCE, side="left")
    return found, (1 + num_as_bad) / (1 + len(worst))


def _one_after_the_other(slices: Sequence[Slice], flagged: list[int], lack: np.ndarray) -> list[int]:
    """Return the flagged slices, ordered by their evidence on the examples outside earlier ones."""
    order: list[int] = []
    rest, waiting = np.ones(len(lack), dtype=bool), list(flagged)
    while waiting:
        members = np.stack([slices[i].rows & rest for i in waiting])
        sizes = members.sum(axis=1)
        values = np.where(rest, lack - lack[rest].mean(), 0.0) if rest.any() else np.zeros(len(lack))
        spread = np.sqrt(sizes * (rest.sum() - sizes) * (values**2).sum()) + np.finfo(np.float64).tiny
        best = int(np.argmax(members @ values / spread))
        order.append(waiting.pop(best))
        rest &= ~slices[order[-1]].rows
    return order


def _score(part: Slice, scores: RowScores, p: float) -> SliceScore:
    inside = part.rows
    parts, wholes = scores.parts[inside], scores.wholes[inside]
    score = ratio_of(parts.sum(), wholes.sum())
    rest = ratio_of(scores.parts[~inside].sum(), scores.wholes[~inside].sum())
    low, high = interval_of(parts, wholes, is_share=scores.is_share)
    worse = score > rest if scores.lower_is_better else score < rest
    flagged = bool(worse and p <= MAX_CHANCE)
    return SliceScore(part.column, part.value, len(parts), score, low, high, score - rest, p, flagged)


def _deals(values: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield shuffles of `values` in chunks [examples, shuffles]."""
    rng = np.random.default_rng(seed % 2**64)
    counts = [DEALS_AT_ONCE] * (DEALS // DEALS_AT_ONCE) + [DEALS % DEALS_AT_ONCE]
    for count in counts:
        yield np.stack([rng.permutation(values) for _ in range(count)], axis=1)


def _deal_moments(values: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard deviation and skewness of the sum of `sizes` values drawn without replacement.

    The mean of `values` is 0 (Cochran 1977, chapter 2).
    """
    total = len(values)
    second, third = (values**2).mean(), (values**3).mean()
    variance = sizes * (total - sizes) / (total - 1) * second
    third = sizes * (total - sizes) * (total - 2 * sizes) / ((total - 1) * (total - 2)) * third
    spread = np.sqrt(variance)
    return spread, third / spread**3


def _normal(sums: np.ndarray, spread: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """Transform sums [..., slices] to a normal distribution, keeping their order within a slice."""
    z = sums / spread
    safe = np.where(np.abs(skewness) < 1e-6, 1.0, skewness)
    bent = 6 / safe * (np.cbrt(safe * z / 2 + 1) - 1) + safe / 6
    return np.asarray(np.where(np.abs(skewness) < 1e-6, z, bent))
