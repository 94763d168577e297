"""Parquet and Arrow files, and data sets of the datasets library, as tables, read some rows at a time."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nlptl.data.table import FIRST_ROWS, ROWS_AT_ONCE, Batch, Table
from nlptl.errors import DataError

END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""The last bytes of an Arrow stream that is complete."""


def parquet_table(path: Path) -> Table:
    """Open a Parquet file.

    Raises:
        DataError: If it is none, or damaged.
    """
    import pyarrow.parquet as pq

    with _undamaged("a Parquet", path):
        file = pq.ParquetFile(path)

    def batches(columns: list[str] | None, num_rows: int) -> Iterator[Any]:
        yield from file.iter_batches(num_rows, columns=columns, use_threads=False)

    return _table("a Parquet", path, file.schema_arrow, batches)


def arrow_table(path: Path) -> Table:
    """Open an Arrow file or stream, such as the datasets library writes."""

    def batches(columns: list[str] | None, num_rows: int) -> Iterator[Any]:
        for batch in itertools.islice(_schema_and_batches(path), 1, None):
            yield from (batch.slice(start, num_rows) for start in range(0, len(batch), num_rows))

    with _undamaged("an Arrow", path):
        schema = next(_schema_and_batches(path))
    return _table("an Arrow", path, schema, batches)


def dataset_table(source: str, dataset: Any) -> Table:
    """Open a data set of the datasets library, which is called `source` in messages."""

    def batches(columns: list[str] | None, num_rows: int) -> Iterator[Any]:
        wanted = dataset if columns is None else dataset.select_columns(columns)
        yield from wanted.with_format("arrow").iter(num_rows)

    return _table("an Arrow", source, dataset.features.arrow_schema, batches)


def _table(kind: str, source: object, schema: Any, batches: Callable[[list[str] | None, int], Iterable[Any]]) -> Table:
    """Return a table over the batches of rows that `batches` yields, given columns (None: all) and a number of rows."""

    def read(columns: list[str]) -> Iterator[Batch]:
        row = 1
        with _undamaged(kind, source):
            for batch in batches(columns, ROWS_AT_ONCE):
                yield range(row, row + len(batch)), [batch.column(column).to_pylist() for column in columns]
                row += len(batch)

    def first_rows() -> Iterator[list[Any]]:
        with _undamaged(kind, source):
            for batch in itertools.islice(batches(None, FIRST_ROWS), 1):
                yield from (list(row.values()) for row in batch.to_pylist())

    return Table(schema.names, first_rows(), read, _class_names(schema.metadata))


def _schema_and_batches(path: Path) -> Iterator[Any]:
    """Yield the schema, then the batches: each one is checked, since pyarrow believes what it reads."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
            found = map(reader.get_batch, range(reader.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(max(0, source.size() - len(END_OF_STREAM)))
            if source.read() != END_OF_STREAM:
                raise
            source.seek(0)
            reader = found = pa.ipc.open_stream(source)
        yield reader.schema
        for batch in found:
            batch.validate(full=True)
            yield batch


@contextlib.contextmanager
def _undamaged(kind: str, source: object) -> Iterator[None]:
    """Report what pyarrow raises for a damaged file; errors of the system, which have a number, pass."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).strip().rstrip(".")
        raise DataError(
            f"Expected {kind} file, cannot read {source}: {reason}. It may be cut off, damaged or in another format: "
            "copy or write it again."
        ) from error


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of classes that the datasets library writes into a schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        elements = {column: feature.get("feature", feature) for column, feature in features.items()}
        return {column: list(map(str, element["names"])) for column, element in elements.items() if "names" in element}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
