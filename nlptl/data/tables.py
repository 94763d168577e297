"""Data files as tables: opened by their suffix, and read once the columns are chosen."""

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nlptl.config import BY_NAME, Columns
from nlptl.data.arrow_files import arrow_table, parquet_table
from nlptl.data.delimited import csv_table
from nlptl.data.table import Batch, Table
from nlptl.data.text_files import conll_table, json_table
from nlptl.errors import ConfigError, DataError

CONLL_SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", *CONLL_SUFFIXES)
SUFFIXES = (*TEXT_SUFFIXES, *(f"{suffix}.gz" for suffix in TEXT_SUFFIXES), ".parquet", ".arrow")


def file_status(path: Path) -> os.stat_result | None:
    """Return the status of `path`, or None if there is nothing.

    Raises:
        DataError: If it cannot be looked up, such as for lack of permission.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"Expected a data file or folder, cannot look at {path}: {error}. Check the path.") from error


def open_table(path: Path, columns: Columns = BY_NAME) -> Table:
    """Open a data file by its suffix, one of `SUFFIXES`, without reading its rows yet.

    Raises:
        ConfigError: If `columns` has a separator, or no header, and the file is no CSV or TSV file.
        DataError: If it is not a file, cannot be read, is not what its suffix says, or changes before it is read.
    """
    status = file_status(path)
    if status is None:
        raise DataError(f"Expected a data file, found nothing at {path}. Check the spelling and the folder.")
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise DataError(f"Expected a data file, found {what} at {path}. Pass one of its files, or a copy as a file.")

    def read(names: list[str]) -> Iterator[Batch]:
        with _unchanged(path, status):
            yield from table.read(names)

    with _unchanged(path, status):
        table = _open_table(path, columns)
    return dataclasses.replace(table, read=read)


def _open_table(path: Path, columns: Columns) -> Table:
    _, suffix = split_suffix(path)
    if not suffix:
        raise DataError(
            f"Expected a file that ends in {', '.join(TEXT_SUFFIXES)} (or .gz after that), .parquet or .arrow, found "
            f"{path.name!r}. Unpack or convert it first."
        )
    suffix = suffix.removesuffix(".gz")
    if suffix in (".csv", ".tsv"):
        return csv_table(path, suffix, columns)
    if columns.separator is not None or not columns.header:
        raise ConfigError(
            f"Expected {'--separator' if columns.header else '--no-header'} only with CSV and TSV files, found {path}. "
            "Leave it out."
        )
    if suffix in (".parquet", ".arrow"):
        return (parquet_table if suffix == ".parquet" else arrow_table)(path)
    return conll_table(path) if suffix in CONLL_SUFFIXES else json_table(path, suffix)


def split_suffix(path: Path) -> tuple[str, str]:
    """Return the name of a data file without its suffix, and the suffix, one of `SUFFIXES`; "" if it has none."""
    name = path.name.lower()
    suffix = max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")
    return path.name[: len(name) - len(suffix)], suffix


@contextlib.contextmanager
def _unchanged(path: Path, status: os.stat_result) -> Iterator[None]:
    """Refuse what was read, and any error in it, if the file has been written to or replaced since `status`."""
    try:
        yield
    except Exception as error:
        _refuse_change(path, status)
        if isinstance(error, OSError):
            raise DataError(f"Expected a data file, cannot read {path}: {error}. Check its permissions.") from error
        raise
    _refuse_change(path, status)


def _refuse_change(path: Path, before: os.stat_result) -> None:
    after = file_status(path)
    if after is None or _state(after) != _state(before):
        raise DataError(
            f"Expected {path} to stay as it is while it is read, found that it has changed. Wait until it is complete, "
            "and start again."
        )


def _state(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
