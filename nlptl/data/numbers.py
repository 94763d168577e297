"""Scores of texts: one number, or several by name."""

import json
import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from nlptl.data.columns import plain, shorten
from nlptl.data.label_columns import LabelColumns, Problem
from nlptl.errors import DataError

STRATA = 10
"""Parts of the scores of a regression, each of which is represented in a split that is carved out."""

MAX_MEAN = 1e4
"""Largest mean of scores, in units of their standard deviation."""


def numbers(target: str) -> dict[str, float]:
    """Return the scores in a regression target by name; a single one is called "score"."""
    values = json.loads(target)
    return values if isinstance(values, dict) else {"score": float(values)}


def read_numbers(values: Sequence[object], columns: LabelColumns, row: int) -> str:
    """Return the scores of a row as a target."""
    found = []
    for value, column in zip(map(plain, values), columns.names, strict=True):
        is_number = isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
        try:
            number = float(value) if is_number and "_" not in str(value) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"Expected a number in column {column!r} of {columns.where}, found {shorten(value)} (row {row}). "
                "Correct or delete that row, or pass another --label-column."
            )
        found.append(number)
    return repr(found[0]) if len(found) == 1 else json.dumps(dict(zip(columns.names, found, strict=True)))


def tenths(targets: Sequence[str]) -> list[str]:
    """Return for each text the tenth of all scores to which its first score belongs."""
    first = np.array([next(iter(numbers(target).values())) for target in targets])
    edges = np.unique(np.quantile(first, np.arange(1, STRATA) / STRATA))
    return [str(part) for part in np.searchsorted(edges, first, side="right")]


def score_problem(targets: Sequence[str], where: str, is_train: bool) -> Problem | None:
    """Find scores that are all equal, or whose differences are lost in single precision."""
    rows = [numbers(target) for target in targets] if is_train else []
    for name in rows[0] if rows else ():
        scores = np.array([row.get(name, math.nan) for row in rows])
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = scores.mean(), scores.std()
        if scale == 0:
            return Problem(
                f"Expected scores in {where} that differ, found {name!r} to be {scores[0]:g} throughout",
                "Pass another --label-column.",
            )
        if not np.isfinite(scale) or abs(mean) > MAX_MEAN * scale:
            return Problem(
                f"Expected scores in {where} whose differences single precision can tell, found {name!r} with mean "
                f"{mean:g} and standard deviation {scale:g}",
                "Subtract a number from all of them, or divide them.",
            )
    return None
