"""What a report is made of, before it is a page, Markdown or a model card; and how numbers and names are written.

Whatever comes from the user's data stands between U+2068 and U+2069 (`name`), so that each format can set it apart:
HTML as <bdi>, Markdown as code. No other text holds these two, since `printable` writes them as escapes.
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
"""Names of scores that are not spelled as in settings and files."""
MOST_ROWS = 100
"""Rows of a table; its caption says how many there are in all."""
MANY_ROWS = 12
"""A table with more rows is folded up."""


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Tiles:
    """A few numbers for the first look: what, the number, and what to hold against it."""

    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    """How many columns, from the left, hold texts; the others hold numbers."""
    marked: frozenset[int] = frozenset()
    """Rows that stand out."""
    is_long: bool = False
    """Whether it is folded up in a page, and left out of Markdown."""


@dataclass(frozen=True)
class Quotes:
    """Texts, each under a line about it; None: the text is not shown."""

    caption: str
    quotes: Sequence[tuple[str, str | None]]
    is_long: bool = False


@dataclass(frozen=True)
class Weighted:
    """A text whose words have weights, -1 to 1 once divided by `largest`."""

    caption: str
    tokens: Sequence[tuple[str, float]]
    summary: str

    @property
    def largest(self) -> float:
        """The largest weight, or 1 where all are 0."""
        return max((abs(weight) for _, weight in self.tokens), default=0.0) or 1.0


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, with what it shows in words."""

    caption: str
    alternative: str
    svg: str
    width: int
    """In units of its own, in which letters are 10 high."""


@dataclass(frozen=True)
class Code:
    """Something to copy."""

    caption: str
    text: str


Part = Words | Tiles | Table | Quotes | Weighted | Picture | Code


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """Where links lead."""
        return re.sub(r"\W+", "-", self.title.lower())


def metric_name(metric: str) -> str:
    """Return the name of a score as it is written in a sentence."""
    return METRICS.get(metric, metric.replace("_", " ").replace(" f1", " F1"))


def name(text: object) -> str:
    """Return something that comes from the user's data or settings, set apart from the words around it."""
    return f"{FIRST}{printable(str(text))}{LAST}"


def plain(text: str) -> str:
    """Return a text without the marks around names."""
    return text.replace(FIRST, "").replace(LAST, "")


def names(values: Sequence[object], *, most: int = 20) -> str:
    """Return a list of names, and how many there are if that is not all."""
    listed = ", ".join(name(value) for value in values[:most])
    return listed if len(values) <= most else f"{listed}, ... ({len(values):,} in all)"


def shorten(text: str, most: int) -> str:
    """Return the first letters of a text on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}\u2026"


def capital(text: str) -> str:
    """Return a text with its first letter a capital."""
    return text[:1].upper() + text[1:]


def cut(total: int, which: str = "first") -> str:
    """Return what a caption says of a table that has not all rows."""
    return f" (the {which} {MOST_ROWS} of {total:,})" if total > MOST_ROWS else ""


def count(value: int | None) -> str:
    """Return a whole number."""
    return NOTHING if value is None else f"{value:,}"


def decimal(value: float | None) -> str:
    """Return a number with three decimals, or with fewer where it is large."""
    if value is None:
        return NOTHING
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.0005 or value == 0 else f"{value:.1g}"


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    if value is None:
        return NOTHING
    return f"{value:+.3f}" if abs(value) < 100 else f"{'+' if value > 0 else ''}{decimal(value)}"


def percent(value: float | None) -> str:
    """Return a share in percent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def interval(score: Mapping[str, Any]) -> str:
    """Return the interval of a score."""
    low, high = score.get("low"), score.get("high")
    return NOTHING if low is None or high is None else f"{decimal(low)} to {decimal(high)}"


def seconds(value: float | None) -> str:
    """Return a time."""
    if value is None:
        return NOTHING
    if value >= 120:
        return f"{value / 60:,.1f} min"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def p_value(value: float | None) -> str:
    """Return a p-value, of which nothing below a thousandth matters."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
