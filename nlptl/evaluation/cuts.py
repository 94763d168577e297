"""Cut a test set into slices: by the values of a column, by ranges of numbers, or by words."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nlptl.evaluation.slices import MIN_SIZE, Slice

FEW_VALUES = 10
"""A column with more different numbers than this is cut into ranges."""
RANGES = 5
MOST_VALUES = 200
MOST_WORDS = 200
"""Number of words that make a slice: the most frequent ones, except those in nearly all texts."""
WORD = re.compile(r"\w[\w'\u2019]*\w")
MISSING, RARE = "(missing)", "(rare values)"
MOST_SIGNS = 60


def cut_by_value(column: str, values: Sequence[str]) -> list[Slice]:
    """Return a slice for each value of a column, the most frequent first, or for each range of its numbers.

    Values with fewer than `MIN_SIZE` examples share one slice; an empty string is a missing value.
    """
    numbers = _numbers(values)
    if numbers is not None:
        if len(np.unique(numbers[~np.isnan(numbers)])) > FEW_VALUES:
            return cut_by_number(column, numbers)
        values = [_number(number) if value else value for value, number in zip(values, numbers, strict=True)]
    counts = Counter(values)
    frequent = [value for value, count in counts.most_common(MOST_VALUES) if count >= MIN_SIZE]
    code_of = {value: code for code, value in enumerate(frequent)}
    codes = np.fromiter((code_of.get(value, -1) for value in values), dtype=np.int64, count=len(values))
    slices = [Slice(column, _shown(value), codes == code) for code, value in enumerate(frequent)]
    rare = codes == -1
    return [*slices, Slice(column, RARE, rare)] if rare.any() else slices


def cut_by_number(column: str, numbers: np.ndarray, *, unit: str = "") -> list[Slice]:
    """Return slices of about equal size, from the lowest to the highest numbers; NaN is a missing value."""
    known = numbers[~np.isnan(numbers)]
    if len(known) == 0:
        return []
    edges = np.unique(np.quantile(known, np.arange(1, RANGES) / RANGES))
    part_of = np.searchsorted(edges, numbers, side="left")
    missing = np.isnan(numbers)
    slices = [Slice(column, MISSING, missing)] if missing.any() else []
    for part in range(len(edges) + 1):
        rows = (part_of == part) & ~missing
        if rows.any():
            low, high = numbers[rows].min(), numbers[rows].max()
            name = _number(low) if low == high else f"{_number(low)} to {_number(high)}"
            slices.append(Slice(column, name + unit, rows))
    return slices


def cut_by_label(column: str, sets: Sequence[Sequence[str]]) -> list[Slice]:
    """Return a slice for each label, the most frequent first; an example may have several."""
    counts = Counter(label for labels in sets for label in labels)
    return [
        Slice(column, _shown(label), np.fromiter((label in labels for labels in sets), dtype=bool, count=len(sets)))
        for label, count in counts.most_common(MOST_VALUES)
        if count >= MIN_SIZE
    ]


def cut_by_word(texts: Sequence[str]) -> list[Slice]:
    """Return a slice for each frequent word of two letters or more, ignoring case."""
    words_of = [set(WORD.findall(text.lower())) for text in texts]
    counts = Counter(word for words in words_of for word in words)
    least, most = MIN_SIZE, len(texts) - MIN_SIZE
    chosen = sorted((word for word, count in counts.items() if least <= count <= most), key=lambda w: (-counts[w], w))
    return [
        Slice("word", word, np.fromiter((word in words for words in words_of), dtype=bool, count=len(texts)))
        for word in chosen[:MOST_WORDS]
    ]


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    """Return a column as numbers, NaN for missing values; None if it holds something else."""
    try:
        numbers = np.array([float(value) if value else math.nan for value in values])
    except ValueError:
        return None
    is_missing = np.fromiter((not value for value in values), dtype=bool, count=len(values))
    return numbers if np.isfinite(numbers[~is_missing]).all() else None


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}"


def _shown(value: str) -> str:
    shown = value or MISSING
    return shown if len(shown) <= MOST_SIGNS else shown[: MOST_SIGNS - 3] + "..."
