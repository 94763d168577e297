"""Label columns of a source, and collectors that take their values row by row, for every kind of task."""

import json
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nlptl.data.columns import check_characters, describe_rows, is_blank, kind_of, plain, shorten
from nlptl.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """The label columns of a source, and how they are read."""

    names: Sequence[str] = ("label",)
    separator: str | None = None
    """Separator of the labels of a text, where they are no lists."""
    class_names: Sequence[str] | None = None
    """The names of the classes 0, 1, 2, ..., where the source gives them."""
    are_flags: bool = False
    """Whether each column is a label, with 1 for the texts that have it."""
    where: str
    """What to call the columns in messages."""


class Problem(NamedTuple):
    """Targets that cannot be trained on: what was found, and what to do."""

    found: str
    way_out: str


@dataclass
class RowCollector:
    """Takes the values of each row, of which `read` makes a target; `finish_all` may change all targets in the end."""

    read: Callable[[Sequence[object], LabelColumns, int], str]
    columns: LabelColumns
    finish_all: Callable[[list[str], LabelColumns, Sequence[int]], list[str]] = lambda targets, *_: targets
    targets: list[str] = field(default_factory=list)

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        """Take some rows of each column."""
        for row, each in zip(rows, zip(*values, strict=True), strict=True):
            self.targets.append(sys.intern(self.read(each, self.columns, row)))

    def finish(self, rows: Sequence[int]) -> list[str]:
        """Return the targets of all rows, which stand at `rows` in their source."""
        return self.finish_all(self.targets, self.columns, rows)


class ClassCollector:
    """Takes one label for each text, and keeps each different one once, so that a row takes a reference."""

    def __init__(self, columns: LabelColumns) -> None:
        self._columns = columns
        self._codes = array("i")
        self._values: list[object] = []
        self._first_rows: list[int] = []
        self._code_of: dict[object, int] = {}

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        """Take some rows of the label column."""
        for value, row in zip(map(plain, values[0]), rows, strict=True):
            code = self._code_of.setdefault(_identity(value), len(self._values))
            if code == len(self._values):
                self._values.append(value)
                self._first_rows.append(row)
            self._codes.append(code)

    def finish(self, rows: Sequence[int]) -> list[str]:
        """Return the labels as names of classes: strings as they are, numbers and booleans as Python writes them.

        Raises:
            DataError: If a label is missing, or is no name of a single class, or if labels are of different types.
        """
        where = self._columns.where
        if missing := self._rows_of(rows, is_blank):
            raise DataError(
                f"Expected a label for every text in {where}, found none in {describe_rows(missing)}. "
                "Fill in these labels or delete these rows."
            )
        values = list(zip(self._values, self._first_rows, strict=True))
        first = {kind_of(value): (value, row) for value, row in reversed(values)}
        _check_kinds(first, where)
        names = [str(value) for value in self._values]
        if "string" in first:
            check_characters(names, self._first_rows, where)
        elif "number" in first:
            numbers = [_whole_number(value, row, where) for value, row in values]
            if unlabelled := self._rows_of(rows, lambda value: value == -1):
                raise DataError(
                    f"Expected names of classes in {where}, found -1 in {describe_rows(unlabelled)}, which looks like "
                    "'unlabelled'. Delete these rows; if -1 is a class of its own, give it a name such as 'negative'."
                )
            names = [self._name(number, row) for number, row in zip(numbers, self._first_rows, strict=True)]
        return [names[code] for code in self._codes]

    def _rows_of(self, rows: Sequence[int], is_wanted: Callable[[object], bool]) -> list[int]:
        codes = [code for code, value in enumerate(self._values) if is_wanted(value)]
        return [rows[int(i)] for i in np.flatnonzero(np.isin(self._codes, codes))] if codes else []

    def _name(self, number: int, row: int) -> str:
        names, where = self._columns.class_names, self._columns.where
        if names is None:
            return str(number)
        if not 0 <= number < len(names):
            raise DataError(
                f"Expected class numbers from 0 to {len(names) - 1} in {where}, which names {len(names)} classes, "
                f"found {number} (row {row}). Correct the label or the list of names."
            )
        return names[number]


Collector = ClassCollector | RowCollector


def _check_kinds(first: dict[str, tuple[object, int]], where: str) -> None:
    """Refuse labels of several types, and of a type that names no class, given the first label of each type."""
    if "list" in first:
        value, row = first["list"]
        raise DataError(
            f"Expected one label per text in {where}, found a list, {shorten(value)} (row {row}). "
            "Give each text one label, or pass --task multi_label (--task tokens for a tag for each word)."
        )
    found = ", ".join(f"{kind} {shorten(value)} (row {row})" for kind, (value, row) in sorted(first.items()))
    if len(first) > 1:
        raise DataError(
            f"Expected labels of one type in {where}, found {len(first)} types: {found}. "
            "Write all labels as strings, each class in one spelling."
        )
    if not first.keys() <= {"string", "boolean", "number"}:
        raise DataError(
            f"Expected strings, whole numbers or booleans as labels in {where}, found {found}. Write labels as strings."
        )


def _whole_number(value: object, row: int, where: str) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise DataError(
            f"Expected names of classes in {where}, found {value} (row {row}), which looks like a regression "
            "target. Pass --task regression, or another --label-column, or write classes as names."
        )
    return int(value)  # type: ignore[call-overload, no-any-return]


def _identity(value: object) -> object:
    """Return a key that is equal for equal labels: 1, 1.0 and True differ, and all missing labels are one."""
    if is_blank(value):
        return None
    return (type(value), value if isinstance(value, str | int | float) else None)


def names_of(values: list[object] | None, class_names: Sequence[str] | None) -> list[str] | None:
    """Return a list of names or class numbers as names; None if it is no such list."""
    if values is None or any(not isinstance(each, str | int) or isinstance(each, bool) for each in values):
        return None
    ids = [each for each in values if isinstance(each, int)]
    if class_names is None or len(ids) < len(values):
        return [str(each) for each in values]
    return [class_names[each] for each in ids] if all(0 <= each < len(class_names) for each in ids) else None


def listed(value: object) -> list[object] | None:
    """Return a list, an array, or a JSON list in a string as a list; None for any other value."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return None
    return list(map(plain, value))
