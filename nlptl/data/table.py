"""A source that is open but not read yet."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nlptl.errors import DataError

ROWS_AT_ONCE = 1000
FIRST_ROWS = 20

Batch = tuple[Sequence[int], list[list[Any]]]


@dataclass(frozen=True)
class Table:
    """A source that is open but not read: its columns, and how to read some of them."""

    names: list[str]
    first_rows: Iterable[Sequence[object]]
    """Up to 20 rows, for messages that guess; `read` gives them again."""
    read: Callable[[list[str]], Iterator[Batch]]
    """Takes the names of columns and yields row numbers and one list of values per column, some rows at a time."""
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    """For columns of class numbers, the names of the classes 0, 1, 2, ..."""
    is_delimited: bool = False
    """Whether it is a CSV or TSV file, whose separator and header can be given."""


def no_rows(source: object) -> DataError:
    """Return the error of a source without rows."""
    return DataError(f"Expected rows with examples, found none: {source} has no rows. Check that it is complete.")


def table_of_records(
    source: object, names: list[str], records: Iterator[tuple[int, Any]], *, is_delimited: bool = False
) -> Table:
    """Return a table over row numbers and records: lists of values, or objects by the names of the columns."""
    first = list(itertools.islice(records, FIRST_ROWS))
    records = itertools.chain(first, records)
    places: Mapping[str, Any] = {name: place for place, name in reversed(list(enumerate(names)))}
    if first and isinstance(first[0][1], dict):
        places = {name: name for name in names}
    first_rows = [[record.get(name) for name in names] if isinstance(record, dict) else record for _, record in first]

    def read(columns: list[str]) -> Iterator[Batch]:
        while batch := list(itertools.islice(records, ROWS_AT_ONCE)):
            try:
                values = [[record[places[column]] for _, record in batch] for column in columns]
            except KeyError as error:
                row, record = next((row, record) for row, record in batch if not record.keys() >= set(columns))
                missing = next(column for column in columns if column not in record)
                raise DataError(
                    f"Expected key {missing!r} in each object of {source}, found {sorted(record)} (row {row}). "
                    "Add the key there, or delete the row."
                ) from error
            yield [row for row, _ in batch], values

    return Table(names, first_rows, read, is_delimited=is_delimited)
