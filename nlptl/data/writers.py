"""Tables out: CSV, TSV, JSON lines or Parquet, chosen by the suffix."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from nlptl.errors import ConfigError, ResourceError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def check_suffix(path: str | Path) -> str:
    """Return the suffix that says how a table is written.

    Raises:
        ConfigError: If it is none that `write_table` knows.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"Expected an output file in {', '.join(SUFFIXES)}, found {str(path)!r}. Rename it.")
    return suffix


def write_table(path: str | Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length to `path`, whole or not at all.

    Raises:
        ConfigError: If the suffix is unknown.
        ResourceError: If the file cannot be written.
    """
    target, suffix = Path(path), check_suffix(path)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        if suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(dict(columns)), temporary)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                write_lines(file, columns, suffix=suffix)
        temporary.replace(target)
    except OSError as error:
        raise ResourceError(
            f"Expected to write {target}, found: {error.strerror}. Pass a path in a folder that can be written."
        ) from error


def write_lines(file: IO[str], columns: Mapping[str, Sequence[Any]], *, suffix: str) -> None:
    """Write columns of equal length to an open text file, as CSV, TSV or JSON lines."""
    rows = zip(*columns.values(), strict=True)
    if suffix in (".jsonl", ".ndjson"):
        file.writelines(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        return
    writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
