"""Tables out: CSV, TSV, JSON lines or Parquet, chosen by the suffix."""

import contextlib
import csv
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from nlptl.errors import ConfigError, ResourceError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
ROWS_AT_ONCE = 1000

Column = Sequence[Any] | np.ndarray


def check_output(path: str | Path, *, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Return the suffix of an output file, once it is known that it can be written: before any work is done for it.

    Raises:
        ConfigError: If the suffix is none of `suffixes`.
        ResourceError: If its folder does not exist or cannot be looked at, or a folder has that name.
    """
    target = Path(path).expanduser()
    suffix = target.suffix.lower()
    if suffix not in suffixes:
        raise ConfigError(f"Expected an output file in {', '.join(suffixes)}, found {str(path)!r}. Rename it.")
    try:
        found = "a folder of that name" if target.is_dir() else ""
        found = found if target.parent.is_dir() else f"no folder {target.parent}"
    except OSError as error:
        found = str(error.strerror)
    if found:
        raise ResourceError(f"Expected to write {target}, found {found}. Pass a file in a folder that exists.")
    return suffix


def write_table(path: str | Path, parts: Iterable[Mapping[str, Column]]) -> None:
    """Write a table to `path`, completely or not at all, given in parts of some rows each: columns of equal length.

    A part is written before the next is asked for; only Parquet keeps all of them, in Arrow's columns.

    Raises:
        ConfigError: If the suffix is unknown.
        ResourceError: If the file cannot be written.
    """
    suffix = check_output(path)

    def write(temporary: Path) -> None:
        if suffix == ".parquet":
            _write_parquet(temporary, parts)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            write_lines(file, parts, suffix=suffix)

    _replace(path, write)


def write_json(path: str | Path, values: Any) -> None:
    """Write `values` as JSON to `path`, completely or not at all.

    Raises:
        ConfigError: If the suffix is not .json.
        ResourceError: If the file cannot be written.
    """
    check_output(path, suffixes=(".json",))
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, completely or not at all.

    Raises:
        ResourceError: If the file cannot be written.
    """
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_lines(file: IO[str], parts: Iterable[Mapping[str, Column]], *, suffix: str) -> None:
    """Write a table in parts, as `write_table` takes it, to an open text file, as CSV, TSV or JSON lines."""
    writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
    for i, columns in enumerate(parts):
        rows = _rows(columns)
        if suffix in (".jsonl", ".ndjson"):
            file.writelines(_json(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
            continue
        if i == 0:
            writer.writerow(columns)
        writer.writerows([_json(value) if isinstance(value, list) else value for value in row] for row in rows)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _rows(columns: Mapping[str, Column]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of each row, with numbers as Python's own."""
    for start in range(0, max(map(len, columns.values())), ROWS_AT_ONCE):
        parts = (column[start : start + ROWS_AT_ONCE] for column in columns.values())
        yield from zip(*(part.tolist() if isinstance(part, np.ndarray) else part for part in parts), strict=True)


def _write_parquet(path: Path, parts: Iterable[Mapping[str, Column]]) -> None:
    import pyarrow
    import pyarrow.parquet

    # All rows decide on the type of a column: in one part there may be no label, or no span.
    tables = [pyarrow.table(dict(columns)) for columns in parts]
    pyarrow.parquet.write_table(pyarrow.concat_tables(tables, promote_options="permissive"), path)


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `target`; once it is on the disk, rename it to `target`.

    Raises:
        OSError: If it cannot be written; an existing file stays.
    """
    # A random name, since two processes may write the same target for as long as predictions take.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:  # an interruption too
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _replace(path: str | Path, write: Callable[[Path], object]) -> None:
    target = Path(path).expanduser()
    try:
        write_whole(target, write)
    except OSError as error:
        raise ResourceError(
            f"Expected to write {target}, found: {error.strerror or error}. Pass a path in a writable folder."
        ) from error
