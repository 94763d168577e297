"""Label columns of a source, and collectors that take their values row by row, whatever the kind of task."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from nlptl.data.columns import LabelCollector


class Collector(Protocol):
    """Takes the values of the label columns, and returns the targets of all rows in the end."""

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        """Take some rows of each column."""

    def finish(self, rows: Sequence[int]) -> list[str]:
        """Return the targets of all rows, which stand at `rows` in their source."""


@dataclass(frozen=True, kw_only=True)
class LabelColumns:
    """The label columns of a source, and how they are read."""

    names: Sequence[str] = ("label",)
    separator: str | None = None
    """What stands between the labels of a text, where they are no lists."""
    class_names: Sequence[str] | None = None
    """The names of the classes 0, 1, 2, ..., where the source gives them."""
    are_flags: bool = False
    """Whether each column says of a label whether a text has it."""
    where: str
    """What to call the columns in messages."""


class Problem(NamedTuple):
    """Targets that cannot be trained on: what was found, and what to do."""

    found: str
    way_out: str


class ClassCollector:
    """Takes one label for each text."""

    def __init__(self, columns: LabelColumns) -> None:
        self._labels, self._columns = LabelCollector(), columns

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        """Take some rows of each column."""
        self._labels.extend(values[0])

    def finish(self, rows: Sequence[int]) -> list[str]:
        """Return the targets of all rows."""
        return self._labels.names(rows, where=self._columns.where, class_names=self._columns.class_names)


class RowCollector:
    """Takes targets that `read` makes of the values of a row."""

    def __init__(self, read: Callable[[Sequence[object], LabelColumns, int], str], columns: LabelColumns) -> None:
        self._read, self._columns, self._targets = read, columns, list[str]()

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        """Take some rows of each column."""
        for row, each in zip(rows, zip(*values, strict=True), strict=True):
            self._targets.append(sys.intern(self._read(each, self._columns, row)))

    def finish(self, rows: Sequence[int]) -> list[str]:
        """Return the targets of all rows."""
        return self._targets


def names_of(values: list[object] | None, class_names: Sequence[str] | None) -> list[str] | None:
    """Return a list of names, or of numbers of classes, as names; None: it is no such list."""
    if values is None or any(not isinstance(each, str | int) or isinstance(each, bool) for each in values):
        return None
    ids = [each for each in values if isinstance(each, int)]
    if class_names is None or len(ids) < len(values):
        return [str(each) for each in values]
    return [class_names[each] for each in ids] if all(0 <= each < len(class_names) for each in ids) else None


def listed(value: object) -> list[object] | None:
    """Return a list, an array, or a list that stands in a string as JSON, as a list; None: it is none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return None
    return [each.item() if isinstance(each, np.generic) else each for each in value]
