"""CSV, TSV, JSON and CoNLL files as tables.

Files may be larger than memory, so they are read some rows at a time; an array in JSON is not, which is parsed whole.
"""

import codecs
import csv
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

from nlptl.data.table import ROWS_AT_ONCE, Batch, Table
from nlptl.errors import DataError

MAX_EXPANSION = 200
"""How many times the size of a .gz file its content may have: real texts have about 4, at most some 50."""
MAX_FIELD_CHARACTERS = 10 * 2**20
BYTES_AT_ONCE = 2**20
MIN_EXPANDED = 2**24
"""Content of this size is no bomb, however well it is compressed."""
CONLL_COLUMNS = ("tokens", "tags")
BETWEEN_COLUMNS = re.compile("[ \t]+")
"""Of CoNLL files: other blanks, such as those within numbers in German, belong to the word."""

logger = logging.getLogger(__name__)


def _open(path: Path) -> IO[bytes]:
    # What gzip returns is a stream of bytes in all that is done with it here.
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _open_text(path: Path, encoding: str, newline: str | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(_open(path), encoding=encoding, newline=newline)


def _encoding(path: Path) -> str:
    """Return the encoding of a text file, all of which is looked at.

    Raises:
        DataError: If it holds bytes that are no text, or nothing, or is compressed and damaged.
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
            raise DataError(f"Expected text in {path}, found what gzip has packed. Unpack it, or add .gz to its name.")
        position, encoding, shown = 0, "utf-8", "UTF-8"
        if start == codecs.BOM_UTF8:
            position = len(start)
        elif start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            position, shown = 2, "UTF-16"
            encoding = "utf-16-le" if start[:2] == codecs.BOM_UTF16_LE else "utf-16-be"
            logger.info("%s: read as UTF-16", path)
        file.seek(position)
        decoder = codecs.getincrementaldecoder(encoding)()
        line, is_blank, pending = 1, True, 0
        while True:
            data = file.read(BYTES_AT_ONCE)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
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
                    "Unpack it, and look whether it is what you expect."
                )
    if is_blank:
        raise DataError(f"Expected rows with examples, found none: {path} has no rows. Check that it is complete.")
    return "utf-16" if shown == "UTF-16" else "utf-8-sig"


def csv_table(path: Path, suffix: str) -> Table:
    """Open a file of separated values; by tabs with the suffix .tsv, else by what its header has.

    Raises:
        DataError: If it is no text, or empty.
    """
    encoding = _encoding(path)
    delimiter = "\t" if suffix == ".tsv" else _delimiter(path, encoding)
    if delimiter != "," and suffix == ".csv":
        logger.info("%s: fields are separated by %r", path, delimiter)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    records = _csv_records(path, encoding, delimiter)
    _, names = next(records, (0, []))

    def read(columns: list[str]) -> Iterator[Batch]:
        places = [names.index(column) for column in columns]
        while batch := list(itertools.islice(records, ROWS_AT_ONCE)):
            yield [row for row, _ in batch], [[fields[place] for _, fields in batch] for place in places]

    return Table(names, (fields for _, fields in itertools.islice(records, 20)), read)


def _delimiter(path: Path, encoding: str) -> str:
    with _open_text(path, encoding, newline="") as file:
        header = next(line for line in file if line.strip())
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _csv_records(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its fields; the header comes first."""
    with _open_text(path, encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        width = 0
        while True:
            row = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                reason = str(error)
                if "end of data" in reason:
                    reason = "a quote that is never closed"
                elif "field larger" in reason:
                    reason = (
                        f"a field of more than {MAX_FIELD_CHARACTERS:,} characters: too long, or a quote is missing"
                    )
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
                    f"Expected {width} fields in each row of {path}, as in its header, found {len(fields)} in row "
                    f"{row}. Put texts that contain {delimiter!r} in double quotes."
                )
            yield row, fields


def json_table(path: Path, suffix: str) -> Table:
    """Open a file with one JSON object on each line, or with the suffix .json also with an array of them.

    Raises:
        DataError: If it is no such file.
    """
    encoding = _encoding(path)
    is_array = suffix == ".json" and _starts_with_bracket(path, encoding)
    records = (_json_array if is_array else _json_records)(path, encoding)
    first = next(records)
    records = itertools.chain([first], records)
    names = list(first[1])

    def read(columns: list[str]) -> Iterator[Batch]:
        while batch := list(itertools.islice(records, ROWS_AT_ONCE)):
            for row, record in batch:
                if missing := [column for column in columns if column not in record]:
                    raise DataError(
                        f"Expected key {missing[0]!r} in each object of {path}, found {sorted(record)} (row {row}). "
                        "Add the key there, or delete the row."
                    )
            yield [row for row, _ in batch], [[record[column] for _, record in batch] for column in columns]

    first_rows = ([record.get(name) for name in names] for _, record in itertools.islice(records, 20))
    return Table(names, first_rows, read)


def _starts_with_bracket(path: Path, encoding: str) -> bool:
    with _open_text(path, encoding, newline="\n") as file:
        return next(line for line in file if line.strip()).lstrip().startswith("[")


def _json_array(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each object in an array, from 1 on, and the object."""
    with _open_text(path, encoding, newline="\n") as file:
        content = file.read()
    try:
        records = json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = "values nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(
            f"Expected an array of objects in {path}, found no JSON: {reason}. Correct it there."
        ) from error
    if not records:
        raise DataError(f"Expected rows with examples, found none: {path} has no rows. Check that it is complete.")
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
    with _open_text(path, encoding, newline="\n") as file:
        for row, line in enumerate(file, start=1):
            if line.strip():
                yield row, _json_record(decoder, line, path, row)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in an object")
    return values


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


def conll_table(path: Path) -> Table:
    """Open a file of one word per line with its tag: a sentence is a row, of a list of words and one of tags."""
    encoding = _encoding(path)
    width, tags = _conll_layout(path, encoding)
    sentences = _conll_sentences(path, encoding, width, tags)

    def read(columns: list[str]) -> Iterator[Batch]:
        places = [CONLL_COLUMNS.index(column) for column in columns]
        while batch := list(itertools.islice(sentences, ROWS_AT_ONCE)):
            yield [row for row, _ in batch], [[sentence[place] for _, sentence in batch] for place in places]

    return Table(list(CONLL_COLUMNS), (sentence for _, sentence in itertools.islice(sentences, 20)), read)


def _conll_layout(path: Path, encoding: str) -> tuple[int, set[str]]:
    """Return the number of columns and the tags of all lines but those that may be comments.

    Raises:
        DataError: If there are no such lines, or if one has another number of columns than the first of them.
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
        raise DataError(f"Expected rows with examples, found none: {path} has no rows. Check that it is complete.")
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
    with _open_text(path, encoding, newline=None) as file:
        for row, line in enumerate(file, start=1):
            is_end = not line.strip() or line.startswith("-DOCSTART-")
            columns = [] if is_end else BETWEEN_COLUMNS.split(line.strip(" \t\n"))
            yield row, columns, line.startswith("# ") or columns == ["#"]
    yield row + 1, [], False
