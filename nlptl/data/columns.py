"""Which columns hold the texts and the labels, and what counts as a text and as a label."""

import difflib
import logging
import re
import shlex
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from string import Formatter

import numpy as np

from nlptl.config import Columns, TaskKind
from nlptl.errors import DataError
from nlptl.values import is_missing
from nlptl.wording import list_names

TEXT_COLUMNS = ("text", "sentence", "content", "document")
WORD_COLUMNS = ("tokens", "words")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "sentiment")
TAG_COLUMNS = ("tags", "ner_tags", "labels")
SCORE_COLUMNS = ("score", "rating", "stars", *LABEL_COLUMNS)

_ID_NAME = re.compile(r"(?i:(.*[\W_])?(id|idx|index|guid|uuid)|unnamed: \d+)|.*[a-z](Id|ID)")
_LONG_TEXT = 20
"""Characters of the average value above which the longest of several columns is proposed as the text column."""
_SEPARATOR = re.compile(r"\w(\t|[^\w\s\"'().:#?!&/-]) ?\w")

_KINDS: dict[type, str] = {str: "string", bool: "boolean", int: "number", float: "number"}
_KINDS |= dict.fromkeys((list, tuple, set, np.ndarray), "list") | {dict: "object"}

logger = logging.getLogger(__name__)


def find_columns(
    names: Sequence[str],
    *,
    text_column: str | None,
    label_column: str | None,
    source: str,
    first_rows: Iterable[Sequence[object]],
    with_labels: bool,
    task: TaskKind = "single_label",
    is_delimited: bool = False,
) -> tuple[str, str | None]:
    """Return the names of the text column and the label column (None without labels).

    Args:
        names: All columns of the source.
        text_column: The column to take, or None to find it by name.
        label_column: The column to take, or None to find it by name.
        source: What to call the source in messages.
        first_rows: The first rows, for messages that guess.
        with_labels: Whether a label column is needed.
        task: What the labels are, on which the names depend by which columns are found.
        is_delimited: Whether the source is a CSV or TSV file, whose first line may be an example.

    Raises:
        DataError: If a column is not there or there twice, or if both are the same one.
    """
    if with_labels and text_column is not None and text_column == label_column:
        raise DataError(
            f"Expected different columns for texts and labels in {source}, found {text_column!r} for both. "
            f"Columns: {_list_names(names)}. Pass another --text-column or --label-column."
        )
    text_names = WORD_COLUMNS if task == "tokens" else TEXT_COLUMNS
    label_names = _label_names(task)
    text = _find(names, text_column, text_names, other=label_column)
    label = _find(names, label_column, label_names, other=text) if with_labels else None
    roles: list[tuple[str, str | None, str | None, Sequence[str]]] = [("text", text_column, text, text_names)]
    if with_labels:
        roles.append(("label", label_column, label, label_names))
    for name in (text, label):
        _check_unique(names, name, source)
    if text is None or (with_labels and label is None):
        raise DataError(_not_found_message(names, roles, source, first_rows, is_delimited))
    chosen = [name for name in (text, label) if name is not None]
    if is_delimited and _is_example(chosen, [[row[names.index(name)] for name in chosen] for row in first_rows]):
        logger.warning(
            "%s: the first line is taken for the names of the columns; if it is an example, pass --no-header, and "
            "the columns by number",
            source,
        )
    if by_name := [f"{role} column {found!r}" for role, given, found, _ in roles if given is None]:
        logger.info("%s: %s", source, ", ".join(by_name))
    return text, label


def find_label_column(names: Sequence[str], columns: Columns, task: TaskKind) -> str | None:
    """Return the label column of a source, as `find_columns` would; None: there is none."""
    text = _find(names, columns.text_column, TEXT_COLUMNS, other=columns.label_column)
    return _find(names, columns.label_column, _label_names(task), other=text)


def _label_names(task: TaskKind) -> Sequence[str]:
    return {"tokens": TAG_COLUMNS, "regression": SCORE_COLUMNS}.get(task, LABEL_COLUMNS)


def _check_unique(names: Sequence[str], name: str | None, source: str) -> None:
    if names.count(name) > 1:
        raise DataError(
            f"Expected one column {name!r} in {source}, found it more than once. Rename or delete the others."
        )


def text_parts(names: Sequence[str], text_column: str | None, *, source: str) -> list[tuple[str, str | None]] | None:
    """Return what a template such as "{title}: {body}" is made of: characters, each with the column after them.

    None: `text_column` is no template but a column, or unset. A column whose name has braces is a column.

    Raises:
        DataError: If the template is malformed, or names a column that is not there.
    """
    if text_column is None or text_column in names or "{" not in text_column:
        return None
    parts: list[tuple[str, str | None]] = []
    try:
        for characters, column, form, conversion in Formatter().parse(text_column):
            if form or conversion or column == "":
                raise ValueError("something else than the name of a column in braces")
            parts.append((characters, column))
    except ValueError as error:
        raise DataError(
            f"Expected a template such as '{{title}}: {{body}}' as --text-column, found {text_column!r}: {error}. A "
            "brace that is meant as such is written twice."
        ) from error
    if all(column is None for _, column in parts):
        raise DataError(f"Expected the names of columns in the template {text_column!r}, found none. Add {{text}}.")
    for column in (column for _, column in parts if column is not None and column not in names):
        near = _near(names, column)
        raise DataError(
            f"Expected text column {column!r} of the template {text_column!r} in {source}, found {_list_names(names)}. "
            f"{f'Did you mean {near!r}? ' if near else ''}Pass another --text-column."
        )
    for _, column in parts:
        _check_unique(names, column, source)
    return parts


def join_texts(parts: Sequence[tuple[str, str | None]], columns: Sequence[Sequence[str]]) -> list[str]:
    """Return the texts of the template that `text_parts` has taken apart, from the columns that it names, in order.

    Where all of these are blank, the text is empty.
    """
    texts = []
    for row in zip(*columns, strict=True):
        values = iter(row)
        joined = "".join(characters + ("" if column is None else next(values)) for characters, column in parts)
        texts.append(joined if any(map(str.strip, row)) else "")
    return texts


def check_column(
    names: Sequence[str],
    column: str,
    *,
    role: str,
    flag: str,
    taken: Sequence[str | None],
    source: str,
    is_optional: bool = False,
) -> None:
    """Refuse a column, such as that of groups, that is not there, or that holds something else, such as the texts.

    Raises:
        DataError: If that is so.
    """
    way_out = ", or leave it out" if is_optional else ""
    if column not in names:
        near = _near([name for name in names if name not in taken], column)
        raise DataError(
            f"Expected {role} column {column!r} in {source}, found {_list_names(names)}. "
            f"{f'Did you mean {near!r}? ' if near else ''}Pass another {flag}{way_out}."
        )
    _check_unique(names, column, source)
    if column in taken:
        raise DataError(
            f"Expected a column of its own for each {role} in {source}, found {column!r}, which holds the texts or "
            f"the labels. Pass another {flag}{way_out}."
        )


def group_names(values: Iterable[object], rows: Sequence[int], *, where: str) -> list[str]:
    """Return `values` as names of groups: a string as it is, another value as Python writes it.

    Raises:
        DataError: If one is missing.
    """
    groups = []
    for value, row in zip(values, rows, strict=True):
        plain = value.item() if isinstance(value, np.generic) else value
        if _is_missing(plain):
            raise DataError(
                f"Expected a group for every text in {where}, found none in row {row}. Fill it in; a text that belongs "
                "to nothing gets a name of its own."
            )
        groups.append(sys.intern(str(plain)))
    return groups


def column_values(values: Iterable[object], *, class_names: Sequence[str] | None = None) -> list[str]:
    """Return what stands in a column as strings, equal ones being one object; what is missing is empty.

    Args:
        values: The values of a column of any kind.
        class_names: The names of the classes 0, 1, 2, ..., where the source gives them.
    """
    found = []
    for value in values:
        plain = value.item() if isinstance(value, np.generic) else value
        is_class = class_names is not None and isinstance(plain, int) and 0 <= plain < len(class_names)
        shown = class_names[plain] if is_class else "" if _is_missing(plain) else str(plain).strip()  # type: ignore[index]
        found.append(sys.intern(shown))
    return found


def check_texts(values: Iterable[object], rows: Sequence[int], *, where: str) -> list[str]:
    """Return `values` as texts; what is missing (null, NaN) is an empty text.

    Raises:
        DataError: If a value is not a string, or holds a character that no text file can hold.
    """
    texts = []
    for value, row in zip(values, rows, strict=True):
        if not isinstance(value, str):
            if is_missing(value):
                texts.append("")
                continue
            raise DataError(
                f"Expected a string as text in {where}, found {shorten(value)}, a {_kind(value)} (row {row}). "
                "Write texts as strings, or pass the column that holds the texts as --text-column."
            )
        texts.append(str(value))
    _check_characters(texts, rows, where)
    return texts


class LabelCollector:
    """Takes labels one after the other, and keeps each different one once."""

    def __init__(self) -> None:
        self._codes = array("i")
        self._values: list[object] = []
        self._first: list[int] = []  # where each of the values comes first
        self._code_of: dict[object, int] = {}

    def extend(self, values: Iterable[object]) -> None:
        """Take labels of any kind."""
        for value in values:
            plain = value.item() if isinstance(value, np.generic) else value
            code = self._code_of.setdefault(_identity(plain), len(self._values))
            if code == len(self._values):
                self._values.append(plain)
                self._first.append(len(self._codes))
            self._codes.append(code)

    def names(self, rows: Sequence[int], *, where: str, class_names: Sequence[str] | None = None) -> list[str]:
        """Return what was taken as names of classes: strings as they are, numbers and booleans as Python has them.

        Names that are equal are one object, so that a row takes a reference.

        Args:
            rows: Where each example stands in its source.
            where: What to call the column in messages.
            class_names: The names of the classes 0, 1, 2, ..., where the source gives them.

        Raises:
            DataError: If a label is missing, or is no name of a single class, or if labels are of different types.
        """

        def rows_of(is_meant: Callable[[object], bool]) -> list[int]:
            codes = [code for code, value in enumerate(self._values) if is_meant(value)]
            return [rows[int(i)] for i in np.flatnonzero(np.isin(self._codes, codes))] if codes else []

        if missing := rows_of(_is_missing):
            raise DataError(
                f"Expected a label for every text in {where}, found none in {describe_rows(missing)}. "
                "Fill in these labels or delete these rows."
            )
        first_rows = [rows[i] for i in self._first]
        first: dict[str, tuple[object, int]] = {}
        for value, row in zip(self._values, first_rows, strict=True):
            first.setdefault(_kind(value), (value, row))
        _check_kinds(first, where)
        names = [str(value) for value in self._values]
        if "string" in first:
            _check_characters(names, first_rows, where)
        elif "number" in first:
            _check_whole_numbers(self._values, first_rows, where)
            if unlabelled := rows_of(lambda value: value == -1):
                raise DataError(
                    f"Expected names of classes in {where}, found -1 in {describe_rows(unlabelled)}, which looks like "
                    "'unlabelled'. Delete these rows; if -1 is a class of its own, give it a name such as 'negative'."
                )
            names = _number_names(self._values, first_rows, where, class_names)
        return [names[code] for code in self._codes]


def describe_rows(rows: Sequence[int]) -> str:
    """Return "row 7", or "3 rows (2, 5, 9)" with the first five of them."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    return f"{len(rows):,} rows ({', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''})"


def _find(names: Sequence[str], given: str | None, candidates: Sequence[str], *, other: str | None) -> str | None:
    if given is not None:
        return given if given in names else None
    rest = [name for name in names if name != other]
    exact = [candidate for candidate in candidates if candidate in rest]
    loose = [name for candidate in candidates for name in rest if name.strip().casefold() == candidate]
    return next(iter(exact + loose), None)


def _not_found_message(
    names: Sequence[str],
    roles: Sequence[tuple[str, str | None, str | None, Sequence[str]]],
    source: str,
    first_rows: Iterable[Sequence[object]],
    is_delimited: bool,
) -> str:
    near = {role: _near(names, given) for role, given, found, _ in roles if given and not found}
    rows = list(first_rows)
    guesses = _complete({role: found or near.get(role) for role, _, found, _ in roles}, names, rows)
    wanted = " and ".join(
        f"{role} column {given!r}" if given else f"a {role} column ({', '.join(candidates)})"
        for role, given, found, candidates in roles
        if found is None
    )
    message = f"Expected {wanted} in {source}, found {_list_names(names)}. "
    if is_delimited and _is_example(names, rows):
        numbers = {name: str(number) for number, name in enumerate(names, start=1)}
        flags = " ".join(f"--{role}-column {numbers.get(guesses[role] or '', 'NUMBER')}" for role, _, _, _ in roles)
        return (
            f"{message}The first line looks like an example, not like the names of the columns. If it is one, pass "
            f"--no-header {flags} (header=False in Python); the columns are then called 1, 2, 3, ..."
        )
    if is_delimited and len(names) == 1 and (mark := _SEPARATOR.search(names[0])):
        shown = "tab" if mark[1] == "\t" else shlex.quote(mark[1])
        return f"{message}If {mark[1]!r} separates the columns, pass --separator {shown}."
    hints = "".join(f"Did you mean {guess!r}? " for guess in near.values() if guess)
    flags = " ".join(f"--{role}-column {shlex.quote(guesses[role] or 'COLUMN')}" for role, _, _, _ in roles)
    python = " and ".join(f"{role}_column=" for role, _, _, _ in roles)
    more = "" if guesses.get("label", "") is not None else " Texts without labels are for nlptl predict."
    more += " If the first line is an example and not the header, pass --no-header." if is_delimited else ""
    return f"{message}{hints}Pass {flags} ({python} in Python).{more}"


def _is_example(names: Sequence[str], first_rows: Iterable[Sequence[object]]) -> bool:
    """Tell whether the names of columns look like values: numbers, whole sentences, or what the rows below hold."""
    if list(names) == [str(number) for number in range(1, len(names) + 1)]:
        return False  # the names of columns without names
    values = zip(*first_rows, strict=True)  # nothing, where there are no rows
    is_repeated = any(name.strip() and name in each for name, each in zip(names, values, strict=False))
    return is_repeated or any(len(name.split()) > 2 or re.fullmatch(r"[-+]?\d+([.,]\d+)?", name) for name in names)


def _near(names: Sequence[str], given: str) -> str | None:
    by_folded = {name.strip().casefold(): name for name in names}
    close = difflib.get_close_matches(given.strip().casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def _complete(
    guesses: dict[str, str | None], names: Sequence[str], rows: Sequence[Sequence[object]]
) -> dict[str, str | None]:
    """Fill in guesses: the text column has the longest values, and the label column is the only other one."""
    named = [name for name in names if name.strip() and names.count(name) == 1]
    rest = [name for name in named if name not in guesses.values()]
    lengths = {name: sum(len(str(row[names.index(name)])) for row in rows) / max(1, len(rows)) for name in rest}
    rest.sort(key=lambda name: -lengths[name])
    guesses = dict(guesses)
    if guesses.get("text", "") is None and rest:
        is_long = lengths[rest[0]] >= max(_LONG_TEXT, *(1.5 * lengths[name] for name in rest[1:]), 0)
        if is_long or len(named) < len(guesses) + 1:
            guesses["text"] = rest.pop(0)
    if guesses.get("label", "") is None and len(rest) == 1 and len(named) <= 2 and not _ID_NAME.fullmatch(rest[0]):
        guesses["label"] = rest[0]
    return guesses


def _check_kinds(first: dict[str, tuple[object, int]], where: str) -> None:
    if "list" in first:
        value, row = first["list"]
        raise DataError(
            f"Expected one label per text in {where}, found a list, {shorten(value)} (row {row}). "
            "Give each text one label, or pass --task multi_label (--task tokens for a tag for each word)."
        )
    found = ", ".join(f"{kind} {shorten(value)} (row {row})" for kind, (value, row) in sorted(first.items()))
    if len(first) > 1:
        raise DataError(
            f"Expected labels of one type in {where}, found {len(first)} types: {found}. "
            "Write all labels as strings, each class in one spelling."
        )
    if not first.keys() <= {"string", "boolean", "number"}:
        raise DataError(
            f"Expected strings, whole numbers or booleans as labels in {where}, found {found}. Write labels as strings."
        )


def _check_whole_numbers(values: Sequence[object], rows: Sequence[int], where: str) -> None:
    for value, row in zip(values, rows, strict=True):
        if isinstance(value, float) and not value.is_integer():
            raise DataError(
                f"Expected names of classes in {where}, found {value} (row {row}), which looks like a regression "
                "target. Pass --task regression, or another --label-column, or write classes as names."
            )


def _number_names(
    values: Sequence[object], rows: Sequence[int], where: str, class_names: Sequence[str] | None
) -> list[str]:
    numbers = [int(value) for value in values]  # type: ignore[call-overload]
    if class_names is None:
        return [str(number) for number in numbers]
    for number, row in zip(numbers, rows, strict=True):
        if not 0 <= number < len(class_names):
            raise DataError(
                f"Expected class numbers from 0 to {len(class_names) - 1} in {where}, which names "
                f"{len(class_names)} classes, found {number} (row {row}). Correct the label or the list of names."
            )
    return [class_names[number] for number in numbers]


def _check_characters(texts: Iterable[str], rows: Sequence[int], where: str) -> None:
    for text, row in zip(texts, rows, strict=True):
        if "\0" in text or not (text.isascii() or is_encodable(text)):
            what = "a NUL character" if "\0" in text else "half of a surrogate pair"
            raise DataError(f"Expected text in {where}, found {what} in {shorten(text)} (row {row}). Delete it there.")


def is_encodable(text: str) -> bool:
    """Tell whether UTF-8 can hold a text: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _identity(value: object) -> object:
    """Return what is equal for labels that are the same; 1, 1.0 and True are not, all that are missing are."""
    if _is_missing(value):
        return None
    return (type(value), value if isinstance(value, str | int | float) else None)


def _is_missing(value: object) -> bool:
    return not value.strip() if isinstance(value, str) else is_missing(value)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def shorten(value: object) -> str:
    """Return a value as Python writes it, in 80 characters at most."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _list_names(names: Sequence[str]) -> str:
    names = [name for name in names if name.strip()]
    return f"{'column' if len(names) == 1 else 'columns'} {list_names(names)}" if names else "no columns"
