"""The columns of the texts and the labels, and their values."""

import difflib
import logging
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

from nlptl.config import Columns, TaskKind
from nlptl.data.table import Table
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
    table: Table, columns: Columns, *, source: str, with_labels: bool = True, task: TaskKind = "single_label"
) -> tuple[str, str | None]:
    """Return the names of the text column and the label column (None without labels).

    Args:
        table: The open source.
        columns: The columns to take; those that are not given are found by name.
        source: What to call the source in messages.
        with_labels: Whether a label column is needed.
        task: Kind of target, which decides the names that are looked for.

    Raises:
        DataError: If a column is not there or there twice, or if both are the same one.
    """
    names, given = table.names, (columns.text_column, columns.label_column)
    if with_labels and given[0] is not None and given[0] == given[1]:
        raise DataError(
            f"Expected different columns for texts and labels in {source}, found {given[0]!r} for both. "
            f"Columns: {_list_names(names)}. Pass another --text-column or --label-column."
        )
    roles = list(map(_Role, ("text", "label"), given, find_text_and_label(names, columns, task), _candidates(task)))
    roles = roles if with_labels else roles[:1]
    for role in roles:
        _check_unique(names, role.found, source)
    chosen = [role.found for role in roles if role.found is not None]
    if len(chosen) < len(roles):
        raise DataError(_not_found_message(table, roles, source))
    values = [[row[names.index(name)] for name in chosen] for row in table.first_rows] if table.is_delimited else []
    if table.is_delimited and _is_example(chosen, values):
        logger.warning(
            "%s: the first line is taken for the names of the columns; if it is an example, pass --no-header, and "
            "the columns by number",
            source,
        )
    if by_name := [f"{role.name} column {role.found!r}" for role in roles if role.given is None]:
        logger.info("%s: %s", source, ", ".join(by_name))
    return chosen[0], chosen[1] if with_labels else None


class _Role(NamedTuple):
    """A column that is looked for: the one that was given, or else one of the candidates."""

    name: str
    given: str | None
    found: str | None
    candidates: Sequence[str]


def find_text_and_label(names: Sequence[str], columns: Columns, task: TaskKind) -> tuple[str | None, str | None]:
    """Return the text column and the label column among `names`; None for one that is not there."""
    text_names, label_names = _candidates(task)
    text = _find(names, columns.text_column, text_names, other=columns.label_column)
    return text, _find(names, columns.label_column, label_names, other=text)


def _candidates(task: TaskKind) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names by which the text column and the label column are found."""
    if task == "tokens":
        return WORD_COLUMNS, TAG_COLUMNS
    return TEXT_COLUMNS, SCORE_COLUMNS if task == "regression" else LABEL_COLUMNS


def _check_unique(names: Sequence[str], name: str | None, source: str) -> None:
    if names.count(name) > 1:
        raise DataError(
            f"Expected one column {name!r} in {source}, found it more than once. Rename or delete the others."
        )


def template_columns(names: Sequence[str], text_column: str | None, *, source: str) -> list[str]:
    """Return the columns that a template such as "{title}: {body}" names; none if it is a column, or None.

    A column whose name has braces is a column.

    Raises:
        DataError: If the template is malformed, or names a column that is not there.
    """
    if text_column is None or text_column in names or "{" not in text_column:
        return []
    try:
        parts = list(Formatter().parse(text_column))
        if any(form or conversion or column == "" for _, column, form, conversion in parts):
            raise ValueError("something other than the name of a column in braces")
    except ValueError as error:
        raise DataError(
            f"Expected a template such as '{{title}}: {{body}}' as --text-column, found {text_column!r}: {error}. A "
            "brace that is meant as such is written twice."
        ) from error
    columns = [column for _, column, _, _ in parts if column is not None]
    if not columns:
        raise DataError(f"Expected the names of columns in the template {text_column!r}, found none. Add {{text}}.")
    for column in columns:
        what = f"text column {column!r} of the template {text_column!r}"
        _check_is_there(names, column, what, names, "--text-column", source)
    return columns


def join_texts(template: str, columns: Sequence[Sequence[str]]) -> list[str]:
    """Return the texts of a template, given the columns that it names, in order.

    Where all columns are blank, the text is empty.
    """
    parts, texts = list(Formatter().parse(template)), []
    for row in zip(*columns, strict=True):
        values = iter(row)
        joined = "".join(characters + ("" if column is None else next(values)) for characters, column, _, _ in parts)
        texts.append(joined if any(map(str.strip, row)) else "")
    return texts


def check_column(names: Sequence[str], column: str, *, role: str, taken: Sequence[str], flag: str, source: str) -> None:
    """Refuse a column, such as that of groups, that is missing, or that holds something else, such as the texts.

    Raises:
        DataError: If that is so.
    """
    free = [name for name in names if name not in taken]
    _check_is_there(names, column, f"{role} column {column!r}", free, flag, source)
    if column in taken:
        raise DataError(
            f"Expected a column of its own for each {role} in {source}, found {column!r}, which holds the texts or "
            f"the labels. Pass another {flag}."
        )


def _check_is_there(
    names: Sequence[str], column: str, what: str, candidates: Sequence[str], flag: str, source: str
) -> None:
    if column not in names:
        near = _near(candidates, column)
        raise DataError(
            f"Expected {what} in {source}, found {_list_names(names)}. "
            f"{f'Did you mean {near!r}? ' if near else ''}Pass another {flag}."
        )
    _check_unique(names, column, source)


def group_names(values: Iterable[object], rows: Sequence[int], *, where: str) -> list[str]:
    """Return `values` as names of groups: a string as it is, another value as Python writes it.

    Raises:
        DataError: If one is missing.
    """
    groups = []
    for value, row in zip(values, rows, strict=True):
        if is_blank(plain(value)):
            raise DataError(
                f"Expected a group for every text in {where}, found none in row {row}. Fill it in; give a text that "
                "belongs to no group a name of its own."
            )
        groups.append(sys.intern(str(plain(value))))
    return groups


def column_values(values: Iterable[object], *, class_names: Sequence[str] | None = None) -> list[str]:
    """Return the values of a column as strings, empty for missing ones; equal strings are one object.

    `class_names` are the names of the classes 0, 1, 2, ..., if the source gives them.
    """
    found = []
    for value in map(plain, values):
        if class_names is not None and isinstance(value, int) and 0 <= value < len(class_names):
            found.append(class_names[value])
        else:
            found.append("" if is_blank(value) else sys.intern(str(value).strip()))
    return found


def check_texts(values: Iterable[object], rows: Sequence[int], *, where: str) -> list[str]:
    """Return `values` as texts; a missing value (null, NaN) is an empty text.

    Raises:
        DataError: If a value is not a string, or holds a character that no text file can hold.
    """
    texts = []
    for value, row in zip(values, rows, strict=True):
        if isinstance(value, str):
            texts.append(str(value))
        elif is_missing(value):
            texts.append("")
        else:
            raise DataError(
                f"Expected a string as text in {where}, found {shorten(value)}, a {kind_of(value)} (row {row}). "
                "Write texts as strings, or pass the column that holds the texts as --text-column."
            )
    check_characters(texts, rows, where)
    return texts


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


def _not_found_message(table: Table, roles: Sequence[_Role], source: str) -> str:
    names, rows = table.names, list(table.first_rows)
    near = {role.name: _near(names, role.given) for role in roles if role.given and not role.found}
    guesses = _complete({role.name: role.found or near.get(role.name) for role in roles}, names, rows)
    wanted = " and ".join(
        f"{role.name} column {role.given!r}" if role.given else f"a {role.name} column ({', '.join(role.candidates)})"
        for role in roles
        if role.found is None
    )
    message = f"Expected {wanted} in {source}, found {_list_names(names)}. "
    if table.is_delimited and _is_example(names, rows):
        numbers = {name: str(number) for number, name in enumerate(names, start=1)}
        flags = " ".join(f"--{role}-column {numbers.get(guess or '', 'NUMBER')}" for role, guess in guesses.items())
        return (
            f"{message}The first line looks like an example, not like the names of the columns. If it is one, pass "
            f"--no-header {flags} (header=False in Python); the columns are then called 1, 2, 3, ..."
        )
    if table.is_delimited and len(names) == 1 and (mark := _SEPARATOR.search(names[0])):
        shown = "tab" if mark[1] == "\t" else shlex.quote(mark[1])
        return f"{message}If {mark[1]!r} separates the columns, pass --separator {shown}."
    hints = "".join(f"Did you mean {guess!r}? " for guess in near.values() if guess)
    flags = " ".join(f"--{role}-column {shlex.quote(guess or 'COLUMN')}" for role, guess in guesses.items())
    python = " and ".join(f"{role}_column=" for role in guesses)
    more = "" if guesses.get("label", "") is not None else " Texts without labels are for nlptl predict."
    more += " If the first line is an example and not the header, pass --no-header." if table.is_delimited else ""
    return f"{message}{hints}Pass {flags} ({python} in Python).{more}"


def _is_example(names: Sequence[str], first_rows: Iterable[Sequence[object]]) -> bool:
    """Tell whether the names of columns look like values: numbers, sentences, or values of the rows below."""
    if list(names) == [str(number) for number in range(1, len(names) + 1)]:
        return False  # the names of columns without names
    values = zip(*first_rows, strict=True)  # empty without rows
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


def check_characters(texts: Iterable[str], rows: Sequence[int], where: str) -> None:
    """Refuse texts that no text file can hold.

    Raises:
        DataError: If one of them has a NUL character or half of a surrogate pair.
    """
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


def plain(value: Any) -> Any:
    """Return a number of numpy as one of Python, and any other value as it is."""
    return value.item() if isinstance(value, np.generic) else value


def is_blank(value: object) -> bool:
    """Tell whether a value is missing, or a string of blanks."""
    return not value.strip() if isinstance(value, str) else is_missing(value)


def kind_of(value: object) -> str:
    """Return the type of a value in words, such as "number" or "list"."""
    return _KINDS.get(type(value), type(value).__name__)


def shorten(value: object) -> str:
    """Return a value as Python writes it, in 80 characters at most."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _list_names(names: Sequence[str]) -> str:
    names = [name for name in names if name.strip()]
    return f"{'column' if len(names) == 1 else 'columns'} {list_names(names)}" if names else "no columns"
