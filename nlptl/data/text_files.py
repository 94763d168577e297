"""JSON and CoNLL files as tables, and how text files of any kind are opened.

Files may be larger than memory, so they are read some rows at a time, except JSON arrays, which are parsed whole.
"""

import codecs
import gzip
import io
import itertools
import json
import logging
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from nlptl.data.table import Table, no_rows, table_of_records
from nlptl.errors import DataError

MAX_EXPANSION = 200
"""Limit on the size of the content of a .gz file, in sizes of the file: real texts have about 4, at most some 50."""
BYTES_AT_ONCE = 2**20
MIN_EXPANDED = 2**24
"""Content of this size is accepted, however well it is compressed."""
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
CONLL_COLUMNS = ("tokens", "tags")
BETWEEN_COLUMNS = re.compile("[ \t]+")
"""Of CoNLL files: other blanks, such as those within numbers in German, belong to the word."""

logger = logging.getLogger(__name__)


def _open(path: Path) -> IO[bytes]:
    # For all that is done here, GzipFile is a binary stream.
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def open_text(path: Path, encoding: str, newline: str | None) -> io.TextIOWrapper:
    """Open a text file, unpacking it if its name ends in .gz."""
    return io.TextIOWrapper(_open(path), encoding=encoding, newline=newline)


def find_encoding(path: Path) -> str:
    """Return the encoding of a text file, after reading all of it.

    Raises:
        DataError: If it is blank, is compressed and damaged, or holds bytes that are no text.
    """
    try:
        return _encoding_of_content(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"Expected a file that gzip can unpack, cannot read {path}: {error}. It is cut off or damaged: copy or "
            "download it again."
        ) from error


def _encoding_of_content(path: Path) -> str:
    limit = MAX_EXPANSION * path.stat().st_size if path.suffix.lower() == ".gz" else None
    with _open(path) as file:
        start = file.read(len(codecs.BOM_UTF8))
        if start[:2] == b"\x1f\x8b":
            raise DataError(f"Expected text in {path}, found a gzip archive. Unpack it, or add .gz to its name.")
        encoding, position = "utf-8", len(start) if start == codecs.BOM_UTF8 else 0
        if start[:2] in _UTF16:
            encoding, position = _UTF16[start[:2]], 2
            logger.info("%s: read as UTF-16", path)
        file.seek(position)
        decoder = codecs.getincrementaldecoder(encoding)()
        line, is_blank, pending = 1, True, 0
        while True:
            data = file.read(BYTES_AT_ONCE)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                shown = "UTF-8" if encoding == "utf-8" else "UTF-16"
                line += error.object[: error.start].decode(encoding, errors="ignore").count("\n")
                raise DataError(
                    f"Expected {shown} in {path}, found byte 0x{error.object[error.start]:02x} on line {line} "
                    f"(byte {position - pending + error.start:,} of the file). Save the file as UTF-8; nothing is "
                    "guessed."
                ) from error
            if "\0" in text:
                line += text[: text.index("\0")].count("\n")
                raise DataError(
                    f"Expected text in {path}, found a NUL character on line {line}: binary, or UTF-16 without a byte "
                    "order mark? Save the file as UTF-8."
                )
            is_blank = is_blank and not text.strip()
            line += text.count("\n")
            if not data:
                break
            position, pending = position + len(data), len(decoder.getstate()[0])
            if limit is not None and position > max(limit, MIN_EXPANDED):
                raise DataError(
                    f"Expected at most {MAX_EXPANSION} times the size of the compressed file in {path}, found more. "
                    "Unpack it, and check that it is what you expect."
                )
    if is_blank:
        raise no_rows(path)
    return "utf-8-sig" if encoding == "utf-8" else "utf-16"


def json_table(path: Path, suffix: str) -> Table:
    """Open a file with one JSON object on each line, or with the suffix .json also with an array of them.

    Raises:
        DataError: If it is no such file.
    """
    encoding = find_encoding(path)
    with open_text(path, encoding, newline="\n") as file:
        first_line = next(line for line in file if line.strip())
    is_array = suffix == ".json" and first_line.lstrip().startswith("[")
    records = (_json_array if is_array else _json_records)(path, encoding)
    first = next(records)
    return table_of_records(path, list(first[1]), itertools.chain([first], records))


def _json_array(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each object in an array, from 1 on, and the object."""
    with open_text(path, encoding, newline="\n") as file:
        content = file.read()
    try:
        records = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = "values nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(
            f"Expected an array of objects in {path}, found no JSON: {reason}. Correct it there."
        ) from error
    if not records:
        raise no_rows(path)
    for row, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(
                f"Expected an array of objects in {path}, found a value of type {type(record).__name__} as number "
                f'{row}. Write each example as {{"text": ..., "label": ...}}.'
            )
        yield row, record


def _json_records(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line of each object, and the object."""
    decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)
    with open_text(path, encoding, newline="\n") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
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
            yield row, record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in an object")
    return values


def conll_table(path: Path) -> Table:
    """Open a file of one word per line with its tag: a sentence is a row, of a list of words and one of tags."""
    encoding = find_encoding(path)
    width, tags = _conll_layout(path, encoding)
    sentences = _conll_sentences(path, encoding, width, tags)
    return table_of_records(path, list(CONLL_COLUMNS), sentences)


def _conll_layout(path: Path, encoding: str) -> tuple[int, set[str]]:
    """Return the number of columns and the tags of all lines but those that may be comments.

    Raises:
        DataError: If there are no such lines, or one has another number of columns than the first.
    """
    first, width, tags = 0, 0, set()
    for row, columns, may_be_comment in _conll_lines(path, encoding):
        if not columns or may_be_comment:
            continue
        first, width = first or row, width or len(columns)
        tags.add(columns[-1])
        if len(columns) != width or width < 2:
            wanted = "a word and its tag" if width < 2 else f"{width} columns, as on line {first},"
            count = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
            raise DataError(
                f"Expected {wanted} on each line of {path}, found {count} on line {row}: {' '.join(columns)[:80]!r}. "
                "Separate columns by blanks or tabs, which no word may hold, and sentences by an empty line; start "
                "comments with '# '."
            )
    if not width:
        raise no_rows(path)
    return width, tags


def _conll_sentences(
    path: Path, encoding: str, width: int, tags: set[str]
) -> Iterator[tuple[int, tuple[list[str], list[str]]]]:
    """Yield the line on which each sentence starts, its words and their tags."""
    start, words, sentence_tags = 0, list[str](), list[str]()
    for row, columns, may_be_comment in _conll_lines(path, encoding):
        # A comment may happen to have as many columns as a word, but hardly a tag as the last one.
        if may_be_comment and (len(columns) != width or columns[-1] not in tags):
            continue
        if columns:
            start = start or row
            words.append(columns[0])
            sentence_tags.append(sys.intern(columns[-1]))
        elif words:
            yield start, (words, sentence_tags)
            start, words, sentence_tags = 0, [], []


def _conll_lines(path: Path, encoding: str) -> Iterator[tuple[int, list[str], bool]]:
    """Yield the number of each line, its columns (none where a sentence ends), and whether it may be a comment."""
    row = 0
    with open_text(path, encoding, newline=None) as file:
        for row, line in enumerate(file, start=1):
            is_end = not line.strip() or line.startswith("-DOCSTART-")
            columns = [] if is_end else BETWEEN_COLUMNS.split(line.strip(" \t\n"))
            yield row, columns, line.startswith("# ") or columns == ["#"]
    yield row + 1, [], False
