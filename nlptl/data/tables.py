"""From a file to its columns: CSV, TSV, JSON lines and Parquet, opened first and read once the columns are chosen."""

import csv
import io
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlptl.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
MAX_FIELD_CHARACTERS = 10 * 2**20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """A source that is open but not read: its columns, and how to read some of them."""

    names: list[str]
    first_rows: Iterable[Sequence[object]]
    """Up to 20 rows, for messages that guess; what they took, `read` does not give again."""
    read: Callable[[list[str]], tuple[list[int], list[list[Any]]]]
    """From names of columns to the row numbers and one list of values per column."""
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    """For columns of class numbers, the names of the classes 0, 1, 2, ..."""


def open_table(path: Path) -> Table:
    """Open a data file by its suffix, one of `SUFFIXES`.

    Raises:
        DataError: If the file cannot be read or is not what its suffix says.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"Expected a file that ends in {', '.join(SUFFIXES)}, found {path.name!r}. Unpack or convert it first."
        )
    readers = {".parquet": _parquet_table, ".jsonl": _json_table, ".ndjson": _json_table}
    try:
        return readers.get(suffix, _csv_table)(path)
    except OSError as error:
        raise DataError(f"Expected a data file, cannot read {path}: {error}. Check its permissions.") from error


def _decode(path: Path) -> str:
    data = path.read_bytes()
    encoding, shown = "utf-8-sig", "UTF-8"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding, shown = "utf-16", "UTF-16"
        logger.info("%s: read as UTF-16", path)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        raise DataError(
            f"Expected {shown} in {path}, found byte 0x{data[error.start]:02x} on line {line} "
            f"(byte {error.start:,} of the file). Save the file as UTF-8; nothing is guessed."
        ) from error
    if not text.strip():
        raise DataError(f"Expected rows with examples, found none: {path} has no rows. Check that it is complete.")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"Expected text in {path}, found a NUL character on line {line}: binary, or UTF-16 without a byte order "
            "mark? Save the file as UTF-8."
        )
    return text


def _csv_table(path: Path) -> Table:
    text = _decode(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
    if delimiter != "," and path.suffix.lower() == ".csv":
        logger.info("%s: fields are separated by %r", path, delimiter)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    records = _csv_records(text, path, delimiter)
    _, names = next(records, (0, []))

    def read(columns: list[str]) -> tuple[list[int], list[list[Any]]]:
        places = [names.index(column) for column in columns]
        rows: list[int] = []
        values: list[list[Any]] = [[] for _ in columns]
        for row, fields in records:
            rows.append(row)
            for column, place in zip(values, places, strict=True):
                column.append(fields[place])
        return rows, values

    return Table(names, (fields for _, fields in itertools.islice(records, 20)), read)


def _delimiter(text: str) -> str:
    header = text.lstrip().split("\n", 1)[0]
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _csv_records(text: str, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its fields; the header comes first."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    width = 0
    while True:
        row = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            reason = "a quote that is never closed" if "end of data" in str(error) else str(error)
            raise DataError(
                f"Expected well-formed records in {path}, found one that is not, starting on row {row}: {reason}. "
                "Put fields in double quotes, and write a double quote inside a field twice."
            ) from error
        if fields is None:
            return
        if not fields or (len(fields) == 1 != width and not fields[0].strip()):
            continue
        width = width or len(fields)
        if len(fields) != width:
            raise DataError(
                f"Expected {width} fields in each row of {path}, as in its header, found {len(fields)} in row {row}. "
                f"Put texts that contain {delimiter!r} in double quotes."
            )
        yield row, fields


def _json_table(path: Path) -> Table:
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    rows, records = [], []
    for row, line in enumerate(_decode(path).split("\n"), start=1):
        if line.strip():
            records.append(_json_record(decoder, line, path, row))
            rows.append(row)
    names = list(records[0])

    def read(columns: list[str]) -> tuple[list[int], list[list[Any]]]:
        for row, record in zip(rows, records, strict=True):
            if missing := [column for column in columns if column not in record]:
                raise DataError(
                    f"Expected key {missing[0]!r} in each object of {path}, found {sorted(record)} (row {row}). "
                    "Add the key there, or delete the row."
                )
        return rows, [[record[column] for record in records] for column in columns]

    return Table(names, ([record.get(name) for name in names] for record in records[:20]), read)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _json_record(decoder: json.JSONDecoder, line: str, path: Path, row: int) -> dict[str, Any]:
    try:
        record = decoder.decode(line)
        reason = "" if isinstance(record, dict) else f"a value of type {type(record).__name__}"
    except json.JSONDecodeError as error:
        reason = f"{error.msg} (column {error.colno})"
    except ValueError as error:
        reason = str(error)
    except RecursionError:
        reason = "values nested too deeply"
    if reason:
        raise DataError(
            f"Expected one JSON object per line in {path}, found something else on row {row}: {reason}. "
            'Write each example as {"text": ..., "label": ...} on a line of its own.'
        )
    return record  # type: ignore[no-any-return]


def _parquet_table(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def unreadable(error: Exception) -> DataError:
        reason = str(error).strip().rstrip(".")
        return DataError(
            f"Expected a Parquet file, cannot read {path}: {reason}. It may be cut off, damaged or in another format: "
            "copy or write it again."
        )

    def read(columns: list[str]) -> tuple[list[int], list[list[Any]]]:
        try:
            table = file.read(columns=columns, use_threads=False)
            values = [table.column(column).to_pylist() for column in columns]
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise unreadable(error) from error
        return list(range(1, table.num_rows + 1)), values

    def first_rows() -> Iterator[list[Any]]:
        try:
            for batch in itertools.islice(file.iter_batches(batch_size=20), 1):
                yield from (list(row.values()) for row in batch.to_pylist())
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise unreadable(error) from error

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(error) from error
    return Table(schema.names, first_rows(), read, _parquet_class_names(schema.metadata))


def _parquet_class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of classes that the datasets library writes into the file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {column: list(map(str, feature["names"])) for column, feature in features.items() if "names" in feature}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
