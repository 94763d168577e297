"""Parquet and Arrow files as tables, read some rows at a time."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nlptl.data.table import ROWS_AT_ONCE, Batch, Table
from nlptl.errors import DataError

END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""How an Arrow stream ends that is whole."""


def parquet_table(path: Path) -> Table:
    """Open a Parquet file.

    Raises:
        DataError: If it is none, or damaged.
    """
    import pyarrow.parquet as pq

    def read(columns: list[str]) -> Iterator[Batch]:
        row = 1
        with _undamaged("a Parquet", path):
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
                yield range(row, row + len(batch)), [batch.column(column).to_pylist() for column in columns]
                row += len(batch)

    def first_rows() -> Iterator[list[Any]]:
        with _undamaged("a Parquet", path):
            for batch in itertools.islice(file.iter_batches(batch_size=20), 1):
                yield from (list(row.values()) for row in batch.to_pylist())

    with _undamaged("a Parquet", path):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        return Table(schema.names, first_rows(), read, _parquet_class_names(schema.metadata))


def arrow_table(path: Path) -> Table:
    """Open an Arrow file or stream, such as the datasets library writes."""
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        """Yield the schema, then the batches: each one is checked, since pyarrow believes what it reads."""
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

    def read(columns: list[str]) -> Iterator[Batch]:
        row = 1
        with _undamaged("an Arrow", path):
            for batch in itertools.islice(batches(), 1, None):
                for start in range(0, len(batch), ROWS_AT_ONCE):
                    part = batch.slice(start, ROWS_AT_ONCE)
                    yield range(row, row + len(part)), [part.column(column).to_pylist() for column in columns]
                    row += len(part)

    def first_rows() -> Iterator[list[Any]]:
        with _undamaged("an Arrow", path):
            for batch in itertools.islice(batches(), 1, 2):
                yield from (list(row.values()) for row in batch.slice(0, 20).to_pylist())

    with _undamaged("an Arrow", path):
        schema = next(batches())
        return Table(schema.names, first_rows(), read, _parquet_class_names(schema.metadata))


@contextlib.contextmanager
def _undamaged(kind: str, path: Path) -> Iterator[None]:
    """Take what pyarrow raises for a file that is damaged; what the system says of it has a number."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).strip().rstrip(".")
        raise DataError(
            f"Expected {kind} file, cannot read {path}: {reason}. It may be cut off, damaged or in another format: "
            "copy or write it again."
        ) from error


def _parquet_class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of classes that the datasets library writes into the file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        elements = {column: feature.get("feature", feature) for column, feature in features.items()}
        return {column: list(map(str, element["names"])) for column, element in elements.items() if "names" in element}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
