"""From an open source to texts and label names, with the place of each in its source.

Values are never guessed: a text "NA", "null" or "007" stays that text, and so does a label.
"""

import dataclasses
import itertools
import logging
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nlptl.config import BY_NAME, Columns, TaskKind
from nlptl.data.columns import (
    check_column,
    check_texts,
    column_values,
    find_columns,
    find_text_and_label,
    group_names,
    is_blank,
    join_texts,
    template_columns,
)
from nlptl.data.given import as_list
from nlptl.data.table import ROWS_AT_ONCE, Table, no_rows
from nlptl.data.tables import open_table
from nlptl.data.tags import check_tags, words_as_texts
from nlptl.data.targets import LabelColumns, target_collector
from nlptl.data.texts import TextCollector, Texts
from nlptl.errors import ConfigError, DataError

SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")

Part = tuple[str, Callable[[], Table]]
"""A file, or a split of the Hub: its name in messages, and a function that opens it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Examples:
    """Texts with their label names and their row numbers in the source."""

    texts: Sequence[str]
    """A list, or `Texts` over a file if there are many."""
    labels: list[str]
    """One name per text, or a target as in `nlptl.data.targets` for other tasks; empty for unlabelled texts."""
    rows: Sequence[int]
    """CSV, TSV, JSON lines and CoNLL: the line on which the record starts, as an editor counts. Others: 1, 2, 3, ..."""
    source: str = "memory"
    split: str = "train"
    groups: list[str] = field(default_factory=list)
    """The group of each text, such as its author, if a group column was given; else empty."""
    pairs: Sequence[str] = ()
    """The second text of each pair; empty for single texts."""
    columns: Mapping[str, list[str]] = field(default_factory=dict)
    """Values of the slice columns by name: a string for each text, empty if the value is missing."""

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Examples({len(self):,} of {self.split} from {self.source})"

    def select(self, indices: Iterable[int]) -> "Examples":
        """Return the examples at `indices`, in that order."""
        kept = indices if isinstance(indices, np.ndarray) else np.fromiter(indices, dtype=np.int64)
        return dataclasses.replace(
            self,
            texts=_take(self.texts, kept),
            labels=_take(self.labels, kept),
            rows=_take(self.rows, kept),
            groups=_take(self.groups, kept),
            pairs=_take(self.pairs, kept),
            columns={name: _take(values, kept) for name, values in self.columns.items()},
        )

    @classmethod
    def from_lists(
        cls,
        texts: Iterable[Any],
        labels: Iterable[object],
        *,
        pairs: Iterable[Any] = (),
        task: TaskKind = "single_label",
        split: str = "train",
    ) -> "Examples":
        """Build examples from a list of texts and a list of as many labels; rows are counted from 1.

        Args:
            texts: Strings, a missing value being an empty one; with the task "tokens" lists of words. This and the
                others: a list, an array or one column of a table.
            labels: Names, numbers, lists of names or lists of tags, depending on the task.
            pairs: The second texts, where examples are pairs.
            task: Kind of target.
            split: Name of the split that the examples belong to.

        Raises:
            ConfigError: If an argument is not a list, or there is no such task.
            DataError: If the lists differ in length, or hold a value that is no text or no label.
        """
        texts, labels, pairs = as_list(texts, "texts"), as_list(labels, "labels"), as_list(pairs, "second texts")
        if len(texts) != len(labels) or len(pairs) not in (0, len(texts)):
            others = f" and {len(pairs)} second texts" if pairs else ""
            raise DataError(f"Expected one label per text, found {len(texts)} texts and {len(labels)} labels{others}.")
        rows, where = list(range(1, len(texts) + 1)), f"the {split} labels"
        collector = target_collector(task, LabelColumns(where=where))
        collector.extend([labels], rows)
        names = collector.finish(rows)
        read = words_as_texts if task == "tokens" else check_texts
        found = read(texts, rows, where=f"the {split} texts")
        if task == "tokens":
            check_tags(found, names, rows, where=where)
        second = check_texts(pairs, rows, where=f"the second {split} texts") if pairs else ()
        return cls(found, names, rows, split=split, pairs=second)


def read_file(
    path: str | Path,
    columns: Columns = BY_NAME,
    *,
    task: TaskKind = "single_label",
    split: str = "train",
    with_labels: bool = True,
    slice_columns: Sequence[str] = (),
) -> Examples:
    """Read a .csv, .tsv, .jsonl, .ndjson or .json file, also one with .gz after that, a .parquet or an .arrow file.

    Args:
        path: The file; its suffix tells the format.
        columns: Which columns are read; others are found by name, or not read.
        task: Kind of target.
        split: Name of the split that the examples belong to.
        with_labels: False for texts to predict: no label column is looked for.
        slice_columns: Further columns that the examples carry along.

    Raises:
        ConfigError: If `columns` contradicts the task.
        DataError: If the file cannot be read, lacks a column, or holds a value that is no text or no label.
    """
    path = Path(path).expanduser()
    table, source = open_table(path, columns), str(path)
    return _examples(table, columns, source, split, task=task, with_labels=with_labels, slice_columns=slice_columns)


def read_lines(lines: Iterable[str]) -> Examples:
    """Read one text per line, such as from standard input; row numbers are line numbers."""
    stripped, texts, rows = (line.rstrip("\r\n") for line in lines), TextCollector(), array("q")
    while batch := list(itertools.islice(stripped, ROWS_AT_ONCE)):
        numbers = range(len(rows) + 1, len(rows) + len(batch) + 1)
        texts.extend(check_texts(batch, numbers, where="standard input"))
        rows.extend(numbers)
    return Examples(texts.finish(), [], rows, "standard input", "test")


def join(parts: Sequence[Examples]) -> Examples:
    """Put the shards of a split together; rows are then counted over all of them."""
    if len(parts) == 1:
        return parts[0]
    texts, rows = _joined(part.texts for part in parts), range(1, sum(map(len, parts)) + 1)
    return Examples(
        texts,
        [label for part in parts for label in part.labels],
        list(rows) if isinstance(texts, list) else rows,
        f"{parts[0].source} and {len(parts) - 1} more",
        parts[0].split,
        [group for part in parts for group in part.groups],
        _joined(part.pairs for part in parts),
        {name: [value for part in parts for value in part.columns[name]] for name in parts[0].columns},
    )


def _joined(parts: Iterable[Sequence[str]]) -> Sequence[str]:
    collector = TextCollector()
    for texts in parts:
        for start in range(0, len(texts), ROWS_AT_ONCE):
            collector.extend(texts[start : start + ROWS_AT_ONCE])
    return collector.finish()


def read_parts(
    parts: Mapping[str, Sequence[Part]],
    columns: Columns = BY_NAME,
    *,
    task: TaskKind = "single_label",
    slice_columns: Sequence[str] = (),
) -> dict[str, Examples]:
    """Read the splits of a data set, each from its parts; those without labels are left out, except train.

    `columns`, `task` and `slice_columns` are as in `read_file`.

    Raises:
        ConfigError: If `columns` contradicts the task.
        DataError: If a split lacks a column, or holds a value that is no text or no label.
    """
    splits, names_of_train = dict[str, Examples](), list[str]()
    for split in ("train", "validation", "test"):
        if split not in parts:
            continue
        if split != "train" and (reason := _why_unlabelled(parts[split], names_of_train, columns, task)):
            source = parts[split][0][0]
            logger.warning("%s is left out: %s. nlptl predict labels it with the trained model", source, reason)
            continue
        read = []
        for source, open_part in parts[split]:
            table = open_part()
            names_of_train = names_of_train or table.names
            read.append(_examples(table, columns, source, split, task=task, slice_columns=slice_columns))
        splits[split] = join(read)
    return splits


def _why_unlabelled(parts: Sequence[Part], names_of_train: Sequence[str], columns: Columns, task: TaskKind) -> str:
    """Return why a split counts as unlabelled, as many test splits are; an empty string if it has labels.

    Raises:
        DataError: If it lacks the label column of train, but has a column that train lacks.
    """
    source, open_part = parts[0]
    names = open_part().names
    of_train, own = (find_text_and_label(each, columns, task)[1] for each in (names_of_train, names))
    wanted = list(columns.label_columns) or [name for name in (of_train,) if name is not None]
    if own is not None and own not in names_of_train and not columns.label_columns:
        wanted = [own]
    if any(name in names for name in wanted):
        return "all its labels are -1 or missing" if _has_no_labels(parts, wanted) else ""
    if more := [name for name in names if name not in names_of_train]:
        raise DataError(
            f"Expected a label column {wanted[0]!r} in {source}, as in train, found {', '.join(map(repr, names))}. If "
            f"{more[0]!r} holds the labels, rename it. If there are no labels, move the file elsewhere, and label its "
            "texts with nlptl predict once a model is trained."
        )
    return f"it has no column {wanted[0]!r}, which holds the labels of train"


def _examples(
    table: Table,
    columns: Columns,
    source: str,
    split: str,
    *,
    task: TaskKind,
    with_labels: bool = True,
    slice_columns: Sequence[str] = (),
) -> Examples:
    _check_wanted(columns, task)
    of_template = template_columns(table.names, columns.text_column, source=source)
    given = dataclasses.replace(columns, text_column=of_template[0]) if of_template else columns
    is_labelled = with_labels and not columns.label_columns
    text, label = find_columns(table, given, source=source, with_labels=is_labelled, task=task)
    text_columns = of_template or [text]
    label_columns = [label] if label is not None else list(columns.label_columns if with_labels else ())
    pair, group, taken = columns.pair_column, columns.group_column, [*text_columns, *label_columns]
    label_flag = "--label-columns" if label is None else "--label-column"
    for name, role, others, flag in (
        *((name, "label", text_columns, label_flag) for name in label_columns),
        (pair, "second text", taken, "--pair-column"),
        (group, "group", taken, "--group-column, or leave it out"),
        *((name, "slice", taken, "--slice-columns, or leave it out") for name in slice_columns),
    ):
        if name is not None:
            check_column(table.names, name, role=role, taken=others, flag=flag, source=source)
    names = (*text_columns, pair, *label_columns, group, *slice_columns)
    wanted = list(dict.fromkeys(name for name in names if name is not None))
    where = {name: f"column {name!r} of {source}" for name in wanted}
    rows, texts, pairs, groups = array("q"), TextCollector(), TextCollector(), list[str]()
    carried: dict[str, list[str]] = {name: [] for name in slice_columns}
    label_form = LabelColumns(
        names=label_columns,
        separator=columns.label_separator,
        class_names=None if label is None else table.class_names.get(label),
        are_flags=label is None,
        where=source if label is None else where[label],
    )
    labels = target_collector(task, label_form)
    read = words_as_texts if task == "tokens" else check_texts
    for numbers, values in table.read(wanted):
        found = dict(zip(wanted, values, strict=True))
        rows.extend(numbers)
        of_texts = [read(found[name], numbers, where=where[name]) for name in text_columns]
        texts.extend(join_texts(str(columns.text_column), of_texts) if of_template else of_texts[0])
        if pair is not None:
            pairs.extend(check_texts(found[pair], numbers, where=where[pair]))
        if label_columns:
            labels.extend([found[name] for name in label_columns], numbers)
        if group is not None:
            groups.extend(group_names(found[group], numbers, where=where[group]))
        for name, values_of in carried.items():
            values_of.extend(column_values(found[name], class_names=table.class_names.get(name)))
    if not rows:
        raise no_rows(source)
    all_texts, all_labels = texts.finish(), labels.finish(rows) if label_columns else []
    if task == "tokens" and label_columns:
        check_tags(all_texts, all_labels, rows, where=source)
    kept = rows.tolist() if isinstance(all_texts, list) else rows
    return Examples(all_texts, all_labels, kept, source, split, groups, pairs.finish(), carried)


def _check_wanted(columns: Columns, task: TaskKind) -> None:
    """Refuse columns that contradict the task.

    Raises:
        ConfigError: If there are any.
    """
    if columns.label_columns and (task not in ("multi_label", "regression") or columns.label_column is not None):
        found = f"task {task}" if columns.label_column is None else f"--label-column {columns.label_column} as well"
        raise ConfigError(
            f"Expected --label-columns only with the tasks multi_label and regression, and in place of --label-column, "
            f"found {found}. Leave one of the two out."
        )
    if columns.label_separator is not None and (task != "multi_label" or not columns.label_separator):
        raise ConfigError(
            f"Expected a --label-separator only with the task multi_label, and not empty, found "
            f"{columns.label_separator!r} with {task}. Leave it out."
        )
    if task == "tokens" and (columns.pair_column is not None or "{" in (columns.text_column or "")):
        raise ConfigError(
            "Expected one column of words with the task tokens, found a pair of texts or a template. Pass that column "
            "as --text-column alone."
        )


def _take(values: Any, indices: np.ndarray) -> Any:
    """Return the values at `indices`, in a sequence of the same kind; of no values, none."""
    if not len(values):
        return values
    if isinstance(values, Texts):
        return values.take(indices)
    if isinstance(values, list):
        return list(map(values.__getitem__, indices))
    numbers = array("q")
    numbers.frombytes(np.asarray(values, dtype=np.int64)[indices].view(np.uint8).data)
    return numbers


def _has_no_labels(parts: Sequence[Part], label_columns: list[str]) -> bool:
    """Tell whether all labels of a split are -1 or missing."""
    for _, open_part in parts:
        table = open_part()
        if not set(label_columns) <= set(table.names):
            return False
        labels = (label for _, columns in table.read(label_columns) for column in columns for label in column)
        if not all(map(_is_no_label, labels)):
            return False
    return True


def _is_no_label(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_no_label, value))
    return is_blank(value) or value == -1 or (isinstance(value, str) and value.strip() == "-1")
