"""What the labels of a data set say of each text, by kind of task: as text in one normal form, whatever the source.

single_label and ordinal: the name of a class. multi_label: a JSON list of names in order. regression: a number, or a
JSON object of numbers by column. tokens: a tag for each word, with a blank between them, as there is between the words.
"""

import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Protocol

import numpy as np

from nlptl.config import TaskKind
from nlptl.data.columns import LabelCollector, check_texts, shorten
from nlptl.errors import DataError

logger = logging.getLogger(__name__)

STRATA = 10
"""Parts of the scores of a regression, each of which is represented in a split that is carved out."""

_FLAGS = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}


class Collector(Protocol):
    """Takes the values of the label columns, and returns the targets of all rows in the end."""

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        """Take some rows of each column."""

    def finish(self, rows: Sequence[int]) -> list[str]:
        """Return the targets of all rows, which stand at `rows` in their source."""


def target_collector(
    task: TaskKind,
    columns: Sequence[str],
    *,
    separator: str | None,
    class_names: Sequence[str] | None,
    are_flags: bool,
    where: str,
) -> Collector:
    """Return what collects the targets of a kind of task.

    Args:
        task: The kind.
        columns: The label columns.
        separator: What stands between the labels of a text, where they are no lists.
        class_names: The names of the classes 0, 1, 2, ..., where the source gives them.
        are_flags: Whether each column says of a label whether a text has it.
        where: What to call the columns in messages.
    """
    if task == "multi_label":
        if are_flags:
            return _RowCollector(lambda values, row: _flagged_labels(values, columns, row, where))
        return _RowCollector(lambda values, row: _label_list(values[0], separator, class_names, row, where))
    if task == "regression":
        return _RowCollector(lambda values, row: _numbers(values, columns, row, where))
    if task == "tokens":
        return _TagCollector(lambda values, row: " ".join(_tags(values[0], class_names, row, where)), where)
    if task == "ordinal":
        return _RowCollector(lambda values, row: _rank(values[0], row, where))
    return _ClassCollector(where, class_names)


def words_as_texts(values: Iterable[object], rows: Sequence[int], *, where: str) -> list[str]:
    """Return lists of words as texts with a blank between two words; a word has no blank of its own.

    Raises:
        DataError: If a value is no list of strings, or is empty.
    """
    texts = []
    for value, row in zip(values, rows, strict=True):
        words = _strings(value)
        if not words:
            raise DataError(
                f"Expected a list of words for each text in {where}, found {shorten(value)} (row {row}). Pass the "
                'column with the words as --text-column; in a CSV, lists are JSON: ["In", "Rome"].'
            )
        # Another blank than the one between words keeps a word such as "1 1/2" in one piece.
        texts.append(" ".join("\u00a0".join(word.split()) for word in words))
    return check_texts(texts, rows, where=where)


def check_tags(texts: Sequence[str], tags: Sequence[str], rows: Sequence[int], *, where: str) -> None:
    """Check that there is a tag for each word.

    Raises:
        DataError: If there are more or fewer.
    """
    for text, each, row in zip(texts, tags, rows, strict=True):
        num_words, num_tags = text.count(" ") + 1, each.count(" ") + 1
        if num_words != num_tags:
            raise DataError(
                f"Expected a tag for each word in {where}, found {num_words} words and {num_tags} tags (row {row}). "
                "Correct that row."
            )


def label_sets(targets: Sequence[str], task: TaskKind) -> list[tuple[str, ...]]:
    """Return the different labels of each text: one, several or none; for regression none."""
    known: dict[str, tuple[str, ...]] = {}
    read = {
        "multi_label": lambda target: tuple(json.loads(target)),
        "tokens": lambda target: tuple(sorted(set(target.split(" ")))),
        "regression": lambda _: (),
    }.get(task, lambda target: (target,))
    return [known[target] if target in known else known.setdefault(target, read(target)) for target in targets]


def strata(targets: Sequence[str], task: TaskKind) -> list[str]:
    """Return what each text counts as where every split is to have its share of all kinds of texts.

    That is its label; of several labels, the rarest; of a score, the tenth of all scores that it is in; of tags,
    whether there are any but O.
    """
    if task == "multi_label":
        sets = label_sets(targets, task)
        counts = Counter(label for labels in sets for label in labels)
        return [min(labels, key=lambda label: (counts[label], label), default="") for labels in sets]
    if task == "regression":
        first = np.array([next(iter(numbers(target).values())) for target in targets])
        edges = np.unique(np.quantile(first, np.arange(1, STRATA) / STRATA))
        return [str(part) for part in np.searchsorted(edges, first, side="right")]
    if task == "tokens":
        return ["O" if set(target.split(" ")) == {"O"} else "tagged" for target in targets]
    return list(targets)


def numbers(target: str) -> dict[str, float]:
    """Return the scores in a target of a regression by name; one that stands alone is called "score"."""
    values = json.loads(target)
    return values if isinstance(values, dict) else {"score": float(values)}


class _ClassCollector:
    def __init__(self, where: str, class_names: Sequence[str] | None) -> None:
        self._labels, self._where, self._class_names = LabelCollector(), where, class_names

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        self._labels.extend(values[0])

    def finish(self, rows: Sequence[int]) -> list[str]:
        return self._labels.names(rows, where=self._where, class_names=self._class_names)


class _RowCollector:
    def __init__(self, read: Callable[[tuple[object, ...], int], str]) -> None:
        self._read, self._targets = read, list[str]()

    def extend(self, values: Sequence[Sequence[object]], rows: Sequence[int]) -> None:
        for row, each in zip(rows, zip(*values, strict=True), strict=True):
            self._targets.append(sys.intern(self._read(each, row)))

    def finish(self, rows: Sequence[int]) -> list[str]:
        return self._targets


class _TagCollector(_RowCollector):
    """Lets every span begin with B-, as in IOB2; in IOB1 it begins with I-, unless it follows one of its type."""

    def __init__(self, read: Callable[[tuple[object, ...], int], str], where: str) -> None:
        super().__init__(read)
        self._where = where

    def finish(self, rows: Sequence[int]) -> list[str]:
        count = 0
        for i, target in enumerate(self._targets):
            tags = target.split(" ")
            begins = [
                tag.startswith("I-") and (before == "O" or before[2:] != tag[2:])
                for before, tag in zip(["O", *tags], tags, strict=False)
            ]
            if any(begins):
                count += sum(begins)
                pairs = zip(tags, begins, strict=True)
                self._targets[i] = " ".join(f"B-{tag[2:]}" if is_first else tag for tag, is_first in pairs)
        if count:
            logger.info("%s: %s tags I- that begin a span are read as B-", self._where, f"{count:,}")
        return self._targets


def _rank(value: object, row: int, where: str) -> str:
    """Return the name of a label that is in an order: a number as it is written shortest, or a string as it is."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, int | float) and not isinstance(plain, bool) and math.isfinite(plain):
        return str(int(plain)) if float(plain).is_integer() else str(plain)
    if isinstance(plain, str) and plain.strip():
        return check_texts([plain], [row], where=where)[0]
    raise DataError(
        f"Expected a label for every text in {where}, a number or a name, found {shorten(value)} (row {row}). Fill in "
        "the label or delete the row."
    )


def _label_list(value: object, separator: str | None, class_names: Sequence[str] | None, row: int, where: str) -> str:
    names = _names(value, class_names)
    if names is None and isinstance(value, str) and separator is not None:
        names = [name.strip() for name in value.split(separator) if name.strip()]
    if names is None or not all(name.strip() for name in names):
        raise DataError(
            f"Expected a list of labels for each text in {where}, found {shorten(value)} (row {row}). Write JSON lists "
            'such as ["joy", "love"], [] for none; pass --label-separator if something else stands between labels; or '
            "pass --label-columns for a column of 0 and 1 for each label."
        )
    return json.dumps(sorted(set(names)), ensure_ascii=False)


def _flagged_labels(values: Sequence[object], columns: Sequence[str], row: int, where: str) -> str:
    flags = [_FLAGS.get(str(value).strip().lower()) for value in values]
    if None in flags:
        i = flags.index(None)
        raise DataError(
            f"Expected 0 or 1 in each of the label columns of {where}, found {shorten(values[i])} in {columns[i]!r} "
            f"(row {row}). Correct that row, or take the column out of --label-columns."
        )
    chosen = sorted(column for column, flag in zip(columns, flags, strict=True) if flag)
    return json.dumps(chosen, ensure_ascii=False)


def _numbers(values: Sequence[object], columns: Sequence[str], row: int, where: str) -> str:
    found = []
    for value, column in zip(values, columns, strict=True):
        plain = value.item() if isinstance(value, np.generic) else value
        is_number = isinstance(plain, str | int | float | Decimal) and not isinstance(plain, bool)
        try:
            number = float(plain) if is_number and "_" not in str(plain) else math.nan  # type: ignore[arg-type]
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"Expected a number in column {column!r} of {where}, found {shorten(value)} (row {row}). Correct or "
                "delete that row, or pass another --label-column."
            )
        found.append(number)
    return repr(found[0]) if len(found) == 1 else json.dumps(dict(zip(columns, found, strict=True)))


def _tags(value: object, class_names: Sequence[str] | None, row: int, where: str) -> list[str]:
    tags = _names(value, class_names)
    if not tags or any(not tag or tag.split() != [tag] for tag in tags):
        raise DataError(
            f"Expected a list of tags for each text in {where}, found {shorten(value)} (row {row}). Pass the column "
            'with the tags as --label-column; in a CSV, lists are JSON: ["O", "B-person"].'
        )
    return tags


def _names(value: object, class_names: Sequence[str] | None) -> list[str] | None:
    """Return a list of names, or of numbers of classes, as names; None: it is no such list."""
    values = _list(value)
    if values is None or any(not isinstance(each, str | int) or isinstance(each, bool) for each in values):
        return None
    ids = [each for each in values if isinstance(each, int)]
    if class_names is None or len(ids) < len(values):
        return [str(each) for each in values]
    return [class_names[each] for each in ids] if all(0 <= each < len(class_names) for each in ids) else None


def _strings(value: object) -> list[str] | None:
    values = _list(value)
    return values if values is not None and all(isinstance(each, str) for each in values) else None  # type: ignore[return-value]


def _list(value: object) -> list[object] | None:
    """Return a list, an array, or a list that stands in a string as JSON, as a list; None: it is none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, np.ndarray):
        return list(value.tolist())
    return list(value) if isinstance(value, list | tuple) else None
