"""CSV and TSV files as tables: finds the separator, and whether quotation marks enclose fields."""

import csv
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from nlptl.config import Columns
from nlptl.data.columns import describe_rows
from nlptl.data.table import Table, table_of_records
from nlptl.data.text_files import find_encoding, open_text
from nlptl.errors import ConfigError, DataError

SEPARATORS = (",", ";", "\t", "|")
SAMPLE_LINES = 100
"""Lines at the start of a file by which its separator is found."""
MOST_ROWS = 2000
"""Limit on the rows that are kept to judge the quotation marks of a file."""
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
"""The line that Excel takes the separator from."""

logger = logging.getLogger(__name__)


def csv_table(path: Path, suffix: str, columns: Columns) -> Table:
    r"""Open a CSV or TSV file.

    Without a separator in `columns`, it is a tab in .tsv files, else the one of `,` `;` `|` and tab that cuts the first
    lines into the same number of columns. Without a header, columns are called 1, 2, 3, ...

    Raises:
        DataError: If the file is not text, is empty, or has rows of different lengths.
        ConfigError: If the separator is not one character.
    """
    encoding = find_encoding(path)
    mark = _find_separator(path, encoding, suffix) if columns.separator is None else _parse(columns.separator)
    if columns.separator is None and mark != ("\t" if suffix == ".tsv" else ","):
        logger.info("%s: columns are separated by %r", path, mark)
    has_quotes = _has_enclosed_fields(path, encoding, mark)
    if not has_quotes:
        logger.info("%s: quotation marks are read as characters, since they do not enclose fields", path)
    records = _records_of_one_width(path, encoding, mark, has_quotes=has_quotes)
    first = next(records, (0, []))
    names = first[1]
    if not columns.header:
        names, records = [str(number) for number in range(1, len(names) + 1)], itertools.chain([first], records)
    return table_of_records(path, names, records, is_delimited=True)


def _parse(separator: str) -> str:
    r"""Return the separator that a user has given; `\t` and `tab` stand for a tab."""
    mark = "\t" if separator in ("\\t", "tab") else separator
    if len(mark) != 1 or mark in '"\r\n':
        raise ConfigError(
            f"Expected one character other than a quotation mark or a line break as --separator, found {separator!r}. "
            "Pass for instance --separator ';'."
        )
    return mark


def _lines(file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file, with an empty line for the one that names the separator for Excel."""
    for line in file:
        yield "\n" if EXCEL_SEPARATOR.fullmatch(line) else line
        if line.strip():
            break
    yield from file


def _find_separator(path: Path, encoding: str, suffix: str) -> str:
    with open_text(path, encoding, newline="") as file:
        sample = list(itertools.islice(itertools.dropwhile(str.isspace, file), SAMPLE_LINES))
    if excel := EXCEL_SEPARATOR.fullmatch(sample[0]):
        return excel[1]
    if suffix == ".tsv":
        return "\t"
    scores = {mark: _score(sample, mark) for mark in SEPARATORS if mark in sample[0]}
    best = max(scores.values(), default=(0.0, 0, False))
    marks = [mark for mark, score in scores.items() if score == best]
    if best[0] <= 0.5 or best[1] < 2:
        return ","
    if len(marks) > 1:
        raise DataError(
            f"Expected one separator in {path}, found that each of {' and '.join(map(repr, marks))} cuts its lines "
            f"into {best[1]} columns. Pass --separator {marks[0]!r} or --separator {marks[1]!r}."
        )
    return marks[0]


def _score(sample: list[str], mark: str) -> tuple[float, int, bool]:
    """Return how well a separator fits.

    That is the fraction of lines that have as many columns as the first, how many that are, and whether no blank
    follows it somewhere, as one does in prose.
    """
    best = (0.0, 0)
    for has_quotes in (True, False):
        try:
            widths = [len(row) for row in _reader(sample, mark, has_quotes=has_quotes, strict=False) if any(row)]
        except csv.Error:
            continue
        if len(sample) == SAMPLE_LINES and len(widths) > 2:
            del widths[-1]  # which may go on after the sample
        if widths and widths[0] > 1:
            best = max(best, (widths.count(widths[0]) / len(widths), widths[0]))
    return *best, any(re.search(f"{re.escape(mark)}[^ ]", line) for line in sample)


def _records_of_one_width(
    path: Path, encoding: str, separator: str, *, has_quotes: bool
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record starts, and its fields; the header comes first."""
    width = 0
    for row, fields, _ in _records(path, encoding, separator, has_quotes=has_quotes):
        width = width or len(fields)
        if len(fields) != width:
            quote = f"Put texts that contain {separator!r} in double quotes"
            raise DataError(
                f"Expected {width} fields in each row of {path}, as in its first, found {len(fields)} in row "
                f"{row}. {quote if has_quotes else f'Replace {separator!r} inside texts by a blank'}; if another "
                "character separates the columns, pass it as --separator."
            )
        yield row, fields


def _records(
    path: Path, encoding: str, separator: str, *, has_quotes: bool = True
) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield the line on which each record starts, its fields and its lines; blank records are left out.

    Raises:
        DataError: If quotation marks do not enclose a field, or are not closed, or a field is too long.
    """
    lines: list[str] = []

    def keep(line: str) -> str:
        lines.append(line)
        return line

    with open_text(path, encoding, newline="") as file:
        reader = _reader(map(keep, _lines(file)), separator, has_quotes=has_quotes)
        width = 0
        while True:
            lines.clear()
            row = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise _malformed(path, row, str(error)) from error
            if fields is None:
                return
            is_blank = not fields or (len(fields) == 1 != width and not fields[0].strip())
            if not is_blank:
                yield row, fields, lines
                width = width or len(fields)


def _reader(lines: Iterable[str], separator: str, *, has_quotes: bool = True, strict: bool = True) -> Any:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=separator, strict=strict, quoting=quoting)


def _malformed(path: Path, row: int, reason: str) -> DataError:
    way_out = "Put fields in double quotes, and write a double quote inside a field twice."
    if "end of data" in reason:
        reason = "a quote that is never closed"
    elif "field larger" in reason:
        reason = f"a field of more than {csv.field_size_limit():,} characters"
        way_out = (
            "Look for a double quote that is missing. If the field is that long, raise Python's limit with "
            "csv.field_size_limit(...), or save the data as JSON lines or Parquet."
        )
    return DataError(
        f"Expected well-formed records in {path}, found one that is not, starting on row {row}: {reason}. {way_out}"
    )


def _has_enclosed_fields(path: Path, encoding: str, separator: str) -> bool:
    """Tell whether quotation marks enclose fields, or are characters like others, as in the TSV files of GLUE."""
    with open_text(path, encoding, newline="") as file:
        if not any('"' in part for part in iter(lambda: file.read(2**20), "")):
            return True
    seen = _Seen()
    try:
        for row, fields, lines in _records(path, encoding, separator):
            if len(lines) > 1 or not seen.has_enough:
                seen.add(row, fields, [line.rstrip("\r\n").split(separator) for line in lines])
    except (csv.Error, DataError):
        return separator != "\t" or seen.is_needed
    votes = seen.votes()
    total, is_tsv = sum(votes), separator == "\t"
    is_open = bool(votes) and total == 0 and not seen.is_needed  # the evidence is balanced
    is_row = is_tsv and seen.width > 1 and not seen.is_written
    if not seen.is_needed and (total > 0 or (is_tsv and seen.is_plain) or (is_open and (seen.is_plain or is_row))):
        return False
    is_told = is_open and not seen.is_written
    if rows := [row for (row, _), vote in zip(seen.doubtful, votes, strict=True) if vote > 0 or is_told]:
        logger.warning(
            "%s: a field in quotation marks spans lines that may be rows of their own (%s). If they are, write each "
            "quotation mark inside a field twice, and put the field in quotation marks",
            *(path, describe_rows(rows)),
        )
    return True


class _Seen:
    """Evidence in a file on whether its quotation marks enclose fields.

    Between two marks that do not belong together, whole rows would be taken for one field. So a field over several
    lines, each of which has the columns of a row, is doubtful: its parts may be like the values of other rows.
    """

    def __init__(self) -> None:
        self.width = 0
        self.doubtful: list[tuple[int, list[list[str]]]] = []
        self.learnt: list[list[str]] = []
        self.is_needed = False
        """Without enclosed fields, some lines would have more or fewer columns than others."""
        self.is_written = False
        """A program wrote the marks: inside a field it writes them twice, or it puts every name in them."""
        self.is_plain = False
        """A mark is inside a field that has none around it, as no program writes it."""

    @property
    def has_enough(self) -> bool:
        """Whether records of one line add nothing more."""
        return self.is_needed and len(self.learnt) == MOST_ROWS

    def add(self, row: int, fields: list[str], lines: list[list[str]]) -> None:
        """Take a record, and the cells of its lines if marks enclosed nothing.

        Raises:
            csv.Error: If it has the columns of the first record only if marks enclose nothing.
        """
        is_header, self.width = not self.width, self.width or len(fields)
        is_alike = all(len(cells) == self.width and cells != [""] for cells in lines)
        if len(fields) != self.width:
            if is_alike:
                raise csv.Error
        elif not is_alike:
            self.is_needed = True
        elif len(lines) > 1:
            self.doubtful += [(row, lines)] * (len(self.doubtful) < MOST_ROWS)
            self.is_written |= any('"' in field for field in fields)
        else:
            enclosed = [cell[1:-1] for cell in lines[0] if len(cell) > 1 and cell[0] == cell[-1] == '"']
            self.is_written |= any('""' in cell for cell in enclosed) or (is_header and bool(enclosed))
            self.is_plain |= any('"' in cell[1:] and cell[0] != '"' for cell in lines[0])
            self.learnt += [fields] * (not is_header and len(self.learnt) < MOST_ROWS)

    def votes(self) -> list[int]:
        """Return for each doubtful record whether the parts of its lines are like the values of other rows.

        1: they are, in most of the columns that hold numbers or a few repeated values; -1: in a minority; 0: neither.
        """
        tests: list[tuple[int, Callable[[str], bool]]] = []
        for place, values in enumerate(zip(*self.learnt, strict=True)):
            known = {value.strip() for value in values}
            if len(known) <= min(100, len(values) // 2):
                tests.append((place, known.__contains__))
            elif all(map(_is_number, values)):
                tests.append((place, _is_number))
        found = []
        for _, lines in self.doubtful:
            each = [1 if all(fits(cells[place].strip()) for cells in lines) else -1 for place, fits in tests]
            found.append((sum(each) > 0) - (sum(each) < 0))
        return found


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
