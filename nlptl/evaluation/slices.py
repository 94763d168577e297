"""Where a model is worse than elsewhere: parts of a test set, tested so that chance alone hardly ever flags one.

Slices overlap, and there may be hundreds of them. They are tested together by permutation: the scores of the examples
are dealt to the slices anew, many times, and a slice is flagged if it is worse than the worst slice of all but 5 % of
these deals (single-step max-T, Westfall and Young 1993, Resampling-Based Multiple Testing, chapter 2). Where no slice
has anything to do with the scores, the chance that any is flagged is at most 5 %, however they overlap.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

MIN_SIZE = 20
"""Examples that a slice, and what is left, must have."""
DEALS = 999
MAX_CHANCE = 0.05
"""Chance that any slice is flagged where none is worse than another."""
DEALS_AT_ONCE = 100
TOLERANCE = 1e-3
"""Difference of two statistics that single precision may make; such as are nearer count as equal."""


@dataclass(frozen=True)
class RowScores:
    """A score that is the sum of a part of each example over the sum of a whole: of all examples, or of some.

    Of the accuracy, a part is 1 if the prediction is right, else 0, and a whole is 1. Of the F1 of spans, a part is
    twice the spans that are found, and a whole the true spans and the predicted ones.
    """

    metric: str
    parts: np.ndarray  # float64 [examples]
    wholes: np.ndarray  # float64 [examples], 0 or more
    lower_is_better: bool = False

    @property
    def overall(self) -> float:
        """The score of all examples; NaN where nothing is to be scored."""
        return ratio_of(self.parts.sum(), self.wholes.sum())

    @property
    def is_share(self) -> bool:
        """Whether the score is the share of the examples that are right."""
        return bool((self.wholes == 1).all() and np.isin(self.parts, (0, 1)).all())


@dataclass(frozen=True)
class Slice:
    """Some of the examples: those with a value of a column."""

    column: str
    value: str
    rows: np.ndarray  # bool [examples]


@dataclass(frozen=True)
class SliceScore:
    """How a slice is scored: with a 95 % interval, its difference to the rest, and the chance of a slice as bad.

    `p` is that any of the slices looked at is as bad by chance alone, so that it may be read as it stands.
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

    The statistic of a slice is the sum over its examples of what they lack of the score of all (the residual of a
    ratio, Cochran 1977, Sampling Techniques, section 6.4), standardized by what sampling without replacement makes of
    it, and made normal by its skewness, so that slices of all sizes are equally likely to be the worst of a deal
    (Wilson and Hilferty 1931, doi:10.1073/pnas.17.12.684).

    Args:
        slices: Parts of the examples, of which those with fewer than `MIN_SIZE` examples, or with fewer left, are left
            out; of several that are the same examples, the first one counts.
        scores: What each example contributes to the score.
        seed: Seeds the deals.

    Returns:
        Flagged slices first: the one with the strongest evidence, then the one with the strongest evidence on the
        examples that are not in it, and so on, so that slices that share their cause do not stand before others. Then
        the others, the strongest evidence first.
    """
    chosen = distinct(slices)
    lack = scores.overall * scores.wholes - scores.parts
    lack = -lack if scores.lower_is_better else lack
    if not chosen or not np.isfinite(lack).all():
        return []
    found, p = np.zeros(len(chosen)), np.ones(len(chosen))
    if np.ptp(lack) > 1e-9:  # else all examples are as good
        found, p = _compare(np.stack([part.rows for part in chosen]), lack, seed)
    rows = [_score(part, scores, chance) for part, chance in zip(chosen, p.tolist(), strict=True)]
    flagged = [i for i, row in enumerate(rows) if row.flagged]
    others = sorted((i for i, row in enumerate(rows) if not row.flagged), key=lambda i: -found[i])
    return [rows[i] for i in [*_one_after_the_other(chosen, flagged, lack), *others]]


def distinct(slices: Sequence[Slice]) -> list[Slice]:
    """Return the slices that are large enough, and of which none before has the same examples."""
    first: dict[bytes, Slice] = {}
    for part in slices:
        size = int(part.rows.sum())
        if MIN_SIZE <= size <= len(part.rows) - MIN_SIZE:
            first.setdefault(np.packbits(part.rows).tobytes(), part)
    return list(first.values())


def interval_of(parts: np.ndarray, wholes: np.ndarray, *, is_share: bool) -> tuple[float, float]:
    """Return the 95 % interval of a score of some examples.

    For a share it is Wilson's (1927, recommended by Brown, Cai and DasGupta 2001, doi:10.1214/ss/1009213286). For any
    other ratio it is the ratio plus and minus a quantile of Student's t times its standard error (Cochran 1977, section
    6.4), cut at 0 or 1 if no example can be beyond. Only `scipy.special`: importing `scipy.stats` takes longer than
    testing all slices.
    """
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
    """Return a part of a whole; NaN where there is no whole."""
    return float(part / whole) if whole else math.nan


def _compare(members: np.ndarray, lack: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistic of each slice, and the chance that the largest of all is as large."""
    moments = _deal_moments(lack, members.sum(axis=1))
    single = members.astype(np.float32)  # [slices, examples]
    found = _normal(single @ lack.astype(np.float32), *moments)
    deals = _deals(lack.astype(np.float32), seed)
    worst = np.sort(np.concatenate([_normal((single @ deal).T, *moments).max(axis=1) for deal in deals]))
    num_as_bad = len(worst) - np.searchsorted(worst, found - TOLERANCE, side="left")
    return found, (1 + num_as_bad) / (1 + len(worst))


def _one_after_the_other(slices: Sequence[Slice], flagged: list[int], lack: np.ndarray) -> list[int]:
    """Return the flagged slices in the order of their evidence on the examples that are in none before."""
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
    """Yield permutations of `values`, some at a time: each [examples, deals]."""
    rng = np.random.default_rng(seed % 2**64)
    counts = [DEALS_AT_ONCE] * (DEALS // DEALS_AT_ONCE) + [DEALS % DEALS_AT_ONCE]
    for count in counts:
        yield np.stack([rng.permutation(values) for _ in range(count)], axis=1)


def _deal_moments(values: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standard deviation and skewness of the sum of a random part of `values`, of which the mean is 0.

    Those of simple random sampling without replacement, from the moments of all values (Cochran 1977, chapter 2).
    """
    total = len(values)
    second, third = (values**2).mean(), (values**3).mean()
    variance = sizes * (total - sizes) / (total - 1) * second
    third = sizes * (total - sizes) * (total - 2 * sizes) / ((total - 1) * (total - 2)) * third
    spread = np.sqrt(variance)
    return spread, third / spread**3


def _normal(sums: np.ndarray, spread: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """Return sums [..., slices] as if of a normal distribution, whose order within a slice they keep."""
    z = sums / spread
    safe = np.where(np.abs(skewness) < 1e-6, 1.0, skewness)
    bent = 6 / safe * (np.cbrt(safe * z / 2 + 1) - 1) + safe / 6
    return np.asarray(np.where(np.abs(skewness) < 1e-6, z, bent))
