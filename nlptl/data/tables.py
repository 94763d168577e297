"""Data files as tables: opened by their suffix, and read once the columns are chosen."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from nlptl.data.arrow_files import arrow_table, parquet_table
from nlptl.data.delimited import csv_table
from nlptl.data.table import Batch, Table
from nlptl.data.text_files import conll_table, json_table
from nlptl.errors import ConfigError, DataError

CONLL_SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", *CONLL_SUFFIXES)
SUFFIXES = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet", ".arrow")


def open_table(path: Path, *, separator: str | None = None, header: bool = True) -> Table:
    """Open a data file by its suffix, one of `SUFFIXES`.

    Args:
        path: The file.
        separator: Of a CSV or TSV file, the character between two columns. None: found by looking at the file.
        header: Of a CSV or TSV file, whether its first line holds the names of the columns.

    Raises:
        ConfigError: If a separator is given, or no header expected, in a file of another format.
        DataError: If the file cannot be read, is not what its suffix says, or changes before all of it is read.
    """
    state = _state(path)

    def read(columns: list[str]) -> Iterator[Batch]:
        with _unchanged(path, state):
            yield from table.read(columns)

    with _unchanged(path, state):
        table = _open_table(path, separator, header)
    return dataclasses.replace(table, read=read)


def _open_table(path: Path, separator: str | None, header: bool) -> Table:
    _, suffix = split_suffix(path)
    if not suffix:
        raise DataError(
            f"Expected a file that ends in {', '.join(TEXT_SUFFIXES)} (or .gz after that), .parquet or .arrow, found "
            f"{path.name!r}. Unpack or convert it first."
        )
    if suffix.startswith((".csv", ".tsv")):
        return csv_table(path, suffix.removesuffix(".gz"), separator=separator, header=header)
    if separator is not None or not header:
        raise ConfigError(
            f"Expected {'--separator' if header else '--no-header'} only with CSV and TSV files, found {path}. "
            "Leave it out."
        )
    if suffix in (".parquet", ".arrow"):
        return (parquet_table if suffix == ".parquet" else arrow_table)(path)
    if suffix.removesuffix(".gz") in CONLL_SUFFIXES:
        return conll_table(path)
    return json_table(path, suffix.removesuffix(".gz"))


def split_suffix(path: Path) -> tuple[str, str]:
    """Return the name of a data file without its suffix, and the suffix, one of `SUFFIXES`; "" if it has none."""
    name = path.name.lower()
    suffix = max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")
    return path.name[: len(name) - len(suffix)], suffix


def _state(path: Path) -> tuple[int, ...]:
    """Return values that change when a file is written to or replaced."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def _unchanged(path: Path, state: tuple[int, ...]) -> Iterator[None]:
    """Refuse what was read, and any error in it, if the file has changed since `state`."""
    try:
        yield
    except OSError as error:
        _refuse_change(path, state)
        raise DataError(f"Expected a data file, cannot read {path}: {error}. Check its permissions.") from error
    except Exception:
        _refuse_change(path, state)
        raise
    _refuse_change(path, state)


def _refuse_change(path: Path, state: tuple[int, ...]) -> None:
    if _state(path) != state:
        raise DataError(
            f"Expected {path} to stay as it is while it is read, found that it has changed. Wait until it is complete, "
            "and start again."
        )
