"""The parts of a report, before they become HTML or Markdown, and how numbers and names are written.

Text from the user's data is enclosed in U+2068 and U+2069 (`name`), which become <bdi> in HTML and code in Markdown.
No other text contains these two characters, because `printable` escapes them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlptl.printable import printable

FIRST, LAST = "\u2068", "\u2069"
NOTHING = "\u2013"
METRICS = {
    "ece": "ECE",
    "f1": "F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R\u00b2",
    "brier": "Brier score",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "matthews": "Matthews correlation",
}
"""Names of scores that differ from their key in settings and files."""
MOST_ROWS = 100
"""Rows shown of a table; its caption gives the total."""


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Tiles:
    """Key numbers: each with its label, its value, and a note."""

    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    """Number of columns, from the left, that hold text; the others hold numbers."""
    marked: frozenset[int] = frozenset()
    """Indices of highlighted rows."""


@dataclass(frozen=True)
class Quotes:
    """Texts, each below a line about it; None hides the text."""

    caption: str
    quotes: Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Weighted:
    """A text with a weight for each word, from -1 to 1 after division by `largest`."""

    caption: str
    tokens: Sequence[tuple[str, float]]
    summary: str

    @property
    def largest(self) -> float:
        """The largest absolute weight, or 1 if all are 0."""
        return max((abs(weight) for _, weight in self.tokens), default=0.0) or 1.0


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, with a description in words."""

    caption: str
    alternative: str
    svg: str
    width: int
    """Width in SVG units, in which letters are 10 high."""


@dataclass(frozen=True)
class Code:
    """Code to copy."""

    caption: str
    text: str


Part = Words | Tiles | Table | Quotes | Weighted | Picture | Code


@dataclass(frozen=True)
class Section:
    """Parts of a report under a heading."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """The HTML id that links point to."""
        return re.sub(r"\W+", "-", self.title.lower())


def metric_name(metric: str) -> str:
    """Return the name of a score as written in a sentence."""
    return METRICS.get(metric, metric.replace("_", " ").replace(" f1", " F1"))


def name(text: object) -> str:
    """Return text from the user's data or settings, enclosed in marks."""
    return f"{FIRST}{printable(str(text))}{LAST}"


def plain(text: str) -> str:
    """Return `text` without the marks around names."""
    return text.replace(FIRST, "").replace(LAST, "")


def names(values: Sequence[object], *, most: int = 20) -> str:
    """Return the first `most` names as a list, with the total if there are more."""
    listed = ", ".join(name(value) for value in values[:most])
    return listed if len(values) <= most else f"{listed}, ... ({len(values):,} in all)"


def shorten(text: str, most: int) -> str:
    """Return the first `most` characters of a text on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}\u2026"


def capital(text: str) -> str:
    """Return `text` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def cut(total: int, which: str = "first") -> str:
    """Return the end of the caption of a table: which of `total` rows it shows, empty if all."""
    return f" (the {which} {MOST_ROWS} of {total:,})" if total > MOST_ROWS else ""


def count(value: int | None) -> str:
    """Return a whole number."""
    return NOTHING if value is None else f"{value:,}"


def decimal(value: float | None) -> str:
    """Return a number with three decimals, or fewer if it is large."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1g}"


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    if value is not None and abs(value) < 100:
        return f"{value:+.3f}"
    return f"{'+' if value and value > 0 else ''}{decimal(value)}"


def percent(value: float | None) -> str:
    """Return a fraction in percent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def interval(score: Mapping[str, Any]) -> str:
    """Return the interval of a score."""
    low, high = score.get("low"), score.get("high")
    return NOTHING if low is None or high is None else f"{decimal(low)} to {decimal(high)}"


def seconds(value: float | None) -> str:
    """Return a duration in seconds or minutes."""
    if value is None:
        return NOTHING
    if value >= 120:
        return f"{value / 60:,.1f} min"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals, or "< 0.001"."""
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
