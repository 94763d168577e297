"""A source that is open but not read yet."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROWS_AT_ONCE = 1000

Batch = tuple[Sequence[int], list[list[Any]]]


@dataclass(frozen=True)
class Table:
    """A source that is open but not read: its columns, and how to read some of them."""

    names: list[str]
    first_rows: Iterable[Sequence[object]]
    """Up to 20 rows, for messages that guess; what they took, `read` does not give again."""
    read: Callable[[list[str]], Iterator[Batch]]
    """From names of columns to row numbers and one list of values per column, some rows at a time."""
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    """For columns of class numbers, the names of the classes 0, 1, 2, ..."""
