"""Train, validation and test: as given, or carved out of train, class by class and by seed."""

import dataclasses
import logging
import re
import shlex
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from nlptl.config import BY_NAME, Columns, TaskKind, TextsShown
from nlptl.data.checks import CLASS_TASKS, drop_copies, drop_empty_texts, find_errors, find_problems, refuse
from nlptl.data.findings import Finding
from nlptl.data.folders import split_files
from nlptl.data.folds import take_fold
from nlptl.data.hub import hub_parts
from nlptl.data.order import order
from nlptl.data.samples import sample_dataset
from nlptl.data.sources import Examples, read_file, read_parts
from nlptl.data.table import ROWS_AT_ONCE
from nlptl.data.tables import SUFFIXES, file_status, open_table
from nlptl.data.targets import label_sets, strata
from nlptl.errors import ConfigError, DataError
from nlptl.labels import Labels
from nlptl.printable import one_line
from nlptl.values import Count, Range, Seed, checked

NAMES = ("train", "validation", "test")
CARVED_PERCENT = 10

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?(@[\w./-]+)?")
_FILE_SUFFIXES = (*SUFFIXES, ".txt", ".xlsx", ".xls", ".zip", ".gz", ".bz2", ".xz", ".zst")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, its kind of target, and the findings of the checks."""

    train: Examples
    validation: Examples
    test: Examples
    task: TaskKind = "single_label"
    findings: tuple[Finding, ...] = ()

    @property
    def labels(self) -> Labels:
        """The labels of train, where each text has one.

        Raises:
            ConfigError: If it has another kind of target.
        """
        if self.task not in CLASS_TASKS:
            raise ConfigError(
                f"Expected one label for each text, found the task {self.task}. Pass task=make_task(splits) to "
                "Classifier.from_pretrained in place of labels=splits.labels."
            )
        return Labels.from_names(self.train.labels)

    def __getitem__(self, name: str) -> Examples:
        """Return the split "train", "validation" or "test".

        Raises:
            ConfigError: If `name` is none of these.
        """
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in parts:
            raise ConfigError(f"Expected a split ({', '.join(NAMES)}), found {name!r}. Pass one of these names.")
        return parts[name]

    def rows_as_json(self) -> Iterator[str]:
        """Yield the row numbers of each split in its source as JSON, some at a time, since there may be millions."""
        for name in NAMES:
            yield f'{{\n  "{name}": [\n' if name == NAMES[0] else f',\n  "{name}": [\n'
            rows = self[name].rows
            for start in range(0, len(rows), ROWS_AT_ONCE):
                numbers = ",\n    ".join(map(str, rows[start : start + ROWS_AT_ONCE]))
                yield f",\n    {numbers}" if start else f"    {numbers}"
            yield "\n  ]"
        yield "\n}\n"


@checked
def load_splits(
    dataset: str | Path,
    *,
    task: TaskKind = "single_label",
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    label_columns: Sequence[str] = (),
    label_separator: str | None = None,
    group_column: str | None = None,
    separator: str | None = None,
    header: bool = True,
    max_examples: Annotated[int, Range(at_least=2)] | None = None,
    drop_empty: bool = False,
    deduplicate: bool = False,
    seed: Seed = 0,
    folds: Annotated[int, Range(at_least=2)] | None = None,
    fold: Count | None = None,
    strict: bool = False,
    near_duplicates: bool = True,
    slice_columns: Sequence[str] = (),
    texts_shown: TextsShown = "whole",
) -> Splits:
    """Load a data set, split it where it is not split, and check it.

    A missing validation or test split is carved out of train, 10 % each, with the share of each class kept (of several
    labels the rarest counts, of scores the tenth that they are in); a class with a single example stays in train. A
    test split that is given is never touched.

    Args:
        dataset: `sample:NAME`, a file, a folder with files train, validation and test (also as downloaded from the
            Hub, or written by `save_to_disk` of the datasets library), or a Hub id (`name:configuration` chooses one
            of several, `name@revision` pins it). Validation and test are left out if they have no labels.
        task: Kind of target: "single_label", "ordinal", "multi_label", "regression" or "tokens".
        text_column: Column of the texts, or of lists of words. None: found by name, such as `text`.
        pair_column: Column of the second text of each example. None: single texts.
        label_column: Column of the labels. None: found by name, such as `label`.
        label_columns: Several columns in its place: one for each label of a multi_label task, or for each score.
        label_separator: Separator of the labels of a text, if they are not lists.
        group_column: Column that names the group of each text, such as its author: a carved-out split has all texts of
            a group or none. None: no groups.
        separator: Character between the columns of a CSV or TSV file. None: found by looking at the file.
        header: Whether the first line of a CSV or TSV file holds the names of its columns. Without, they are called
            1, 2, 3, ...
        max_examples: Keep at most this many examples of each split, at least one of each class. None: all.
        drop_empty: Leave out the texts of all splits that are empty or blank.
        deduplicate: Drop from train every text that is also in another split, and every later duplicate with the same
            label. Two texts are the same if they differ only in case and in blanks at their ends.
        seed: Decides which texts are carved out and kept; nothing else is random.
        folds: With `fold`: cut all texts but those of a given test split into so many folds, of which the test split is
            one, and validation and train are carved out of the others. None: no cross-validation.
        fold: Which fold is tested, from 1 on.
        strict: Stop at any finding of the checks, not only at data that cannot be trained on.
        near_duplicates: Look for near-duplicate texts: a second or less for 5,000 texts.
        slice_columns: Further columns, by which the scores on test are broken down.
        texts_shown: Whether findings quote single words of the texts ("whole") or not ("none").

    Raises:
        ConfigError: If there is no such sample, if `max_examples` is too small, or if the columns contradict the task.
        DataError: If the data cannot be read or trained on; with `strict`, if the checks find anything.
        ResourceError: If the Hub or the sample's package is out of reach.
    """
    columns = Columns(
        text_column=text_column,
        pair_column=pair_column,
        label_column=label_column,
        label_columns=tuple(label_columns),
        label_separator=label_separator,
        group_column=group_column,
        separator=separator,
        header=header,
    )
    parts = read_splits(dataset, columns, task=task, slice_columns=slice_columns)
    if drop_empty:
        parts = {name: drop_empty_texts(part) for name, part in parts.items()}
    if deduplicate:  # before anything is carved out of train, so that no copies come apart
        parts["train"] = drop_copies(parts)
    if folds is not None and fold is not None:
        parts = take_fold(parts, fold=fold, folds=folds, seed=seed, task=task)
    if "test" not in parts or "validation" not in parts:
        _carve_missing(parts, str(dataset), seed, task)
    if max_examples is not None:
        parts = {name: _limit(parts[name], max_examples, seed, task) for name in NAMES}
    parts = {name: parts[name] for name in NAMES}
    refuse(find_errors(parts, task))  # before what takes time
    findings = find_problems(parts, near_duplicates=near_duplicates, task=task, texts_shown=texts_shown)
    refuse(findings, strict=strict)
    for finding in findings:
        logger.warning("%s", finding.message)
    if findings:
        logger.info("For details and what to do, run: %s", _check_command(dataset, task, columns))
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    logger.info("%s: %s%s", str(dataset).removeprefix("sample:"), sizes, _describe_labels(parts["train"], task))
    return Splits(**parts, task=task, findings=tuple(findings))


def read_splits(
    dataset: str | Path,
    columns: Columns = BY_NAME,
    *,
    task: TaskKind = "single_label",
    slice_columns: Sequence[str] = (),
) -> dict[str, Examples]:
    """Read a data set as it is: one file or sample is train; a folder or Hub id may have validation and test too.

    `dataset`, `task` and `slice_columns` are as in `load_splits`; `columns` says which columns are read.

    Raises:
        ConfigError: If there is no such sample, or if `columns` contradicts the task.
        DataError: If the data cannot be read.
        ResourceError: If the Hub or the sample's package is out of reach.
    """
    if isinstance(dataset, str) and dataset.startswith("sample:"):
        if columns != Columns() or slice_columns:
            raise ConfigError(f"Expected no columns with {dataset}, which has its own. Drop the column flags.")
        if task != "single_label":
            raise ConfigError(f"Expected data for the task {task}, found {dataset}, which has one label for each text.")
        return {"train": sample_dataset(dataset)}
    path = Path(dataset).expanduser()
    status = file_status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        parts = {
            split: [(str(file), partial(open_table, file, columns)) for file in files]
            for split, files in split_files(path).items()
        }
        return read_parts(parts, columns, task=task, slice_columns=slice_columns)
    is_file_name = str(dataset).lower().endswith(_FILE_SUFFIXES)
    if status is None and isinstance(dataset, str) and _HUB_ID.fullmatch(dataset) and not is_file_name:
        return read_parts(hub_parts(dataset, columns), columns, task=task, slice_columns=slice_columns)
    return {"train": read_file(path, columns, task=task, slice_columns=slice_columns)}


def _check_command(dataset: str | Path, task: TaskKind, columns: Columns) -> str:
    """Return the command that checks the same columns, as typed in a shell."""
    words = ["nlptl", "check", str(dataset), *(["--task", task] if task != "single_label" else [])]
    for name, value in vars(columns).items():
        if isinstance(value, bool):
            words += [f"--no-{name}"] * (not value)
        elif value:
            words += [f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else value)]
    return shlex.join(words)


def _describe_labels(train: Examples, task: TaskKind) -> str:
    names = sorted({label for labels in label_sets(train.labels, task) for label in labels})
    if task == "single_label":
        names = list(Labels.from_names(names).names)
    shown = ", ".join(map(one_line, names[:10])) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
    return f"; labels {shown}" if names else ""


def _carve_missing(parts: dict[str, Examples], source: str, seed: int, task: TaskKind) -> None:
    """Carve the missing splits out of train."""
    num_rows, num_classes = len(parts["train"]), len(set(strata(parts["train"].labels, task)))
    num_groups = len(set(parts["train"].groups))
    in_groups = f" and {num_groups:,} group{'s' * (num_groups > 1)}" if num_groups else ""
    count = max(1, round(num_rows * CARVED_PERCENT / 100))
    for name in ("test", "validation"):
        if name not in parts:
            parts["train"], part = _carve(parts["train"], count, name, seed, task)
            if not part:
                raise DataError(
                    f"Expected enough rows in {source} to set some aside for {name}, found {num_rows} rows in "
                    f"{num_classes} classes{in_groups}. Add rows, three or more of some class"
                    f"{' and in different groups' if num_groups else ''}; or pass a folder with files train, "
                    "validation and test."
                )
            parts[name] = part
            logger.info("%s: no %s split: held out %s examples of train", source, name, f"{len(part):,}")


def _carve(examples: Examples, count: int, name: str, seed: int, task: TaskKind) -> tuple[Examples, Examples]:
    """Take about `count` examples away as split `name`, as many of each class as its share, never all of a class."""
    classes, stream = strata(examples.labels, task), ("split", seed, name)
    if examples.groups:
        chosen = _choose_groups(classes, examples.groups, count, stream)
    else:
        chosen = _choose(classes, count, stream)
    if task in ("multi_label", "tokens"):
        chosen = _leave_one_of_each(chosen, label_sets(examples.labels, task))
    is_left = np.ones(len(examples), dtype=bool)
    is_left[chosen] = False
    return examples.select(np.flatnonzero(is_left)), dataclasses.replace(examples.select(chosen), split=name)


def _leave_one_of_each(chosen: np.ndarray, sets: list[tuple[str, ...]]) -> np.ndarray:
    """Return the chosen texts without those that are the last ones with one of their labels."""
    left = Counter(label for labels in sets for label in labels)
    kept = []
    for i in chosen:
        if all(left[label] > 1 for label in sets[i]):
            kept.append(i)
            left.subtract(sets[i])
    return np.array(kept, dtype=np.int64)


def _limit(examples: Examples, count: int, seed: int, task: TaskKind) -> Examples:
    if count >= len(examples):
        return examples
    classes = strata(examples.labels, task)
    num_classes = len(set(classes))
    if count < num_classes and task not in CLASS_TASKS:
        classes, num_classes = [""] * len(classes), 1
    if count < num_classes:
        raise ConfigError(
            f"Expected max_examples of {num_classes} or more, one for each class of {examples.split}, found {count}. "
            "Raise or unset --max-examples."
        )
    return examples.select(_choose(classes, count, ("max_examples", seed, examples.split), at_least=1))


def _choose(classes: list[str], count: int, stream: tuple[str | int, ...], *, at_least: int = 0) -> np.ndarray:
    """Return the sorted indices of about `count` examples, with the share of each class kept.

    Either at least one of each class is chosen (`at_least` 1), or at least one of each is left behind (0).
    """
    names, codes, sizes = _codes(classes)
    shares = at_least + _apportion(sizes - 1, count - at_least * len(names))
    members_by_class = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    classes_and_shares = zip(names, members_by_class, shares, strict=True)
    chosen = [members[order(len(members), *stream, name)[:share]] for name, members, share in classes_and_shares]
    return np.sort(np.concatenate(chosen))


def _choose_groups(classes: list[str], groups_of: list[str], count: int, stream: tuple[str | int, ...]) -> np.ndarray:
    """Return the sorted indices of about `count` examples: whole groups, with the share of each class kept roughly.

    Of the groups, in an order by seed, each is taken that brings the classes nearer to their shares and leaves some of
    each class behind; where none does, as of a few large groups, the one that is nearest.
    """
    _, codes, sizes = _codes(classes)
    _, groups, group_sizes = _codes(groups_of)
    members_by_group = np.split(np.argsort(groups, kind="stable"), np.cumsum(group_sizes)[:-1])
    missing = count * sizes / len(classes)
    left = sizes.copy()
    chosen, nearest, shortest = [], np.zeros(0, dtype=np.int64), np.inf
    for group in order(len(members_by_group), *stream):
        members = members_by_group[group]
        added = np.bincount(codes[members], minlength=len(sizes))
        distance = np.abs(missing - added).sum()
        if (left[added > 0] <= added[added > 0]).any():
            continue
        if distance < np.abs(missing).sum():
            chosen.append(members)
            missing, left = missing - added, left - added
        elif distance < shortest:
            nearest, shortest = members, distance
    return np.sort(np.concatenate(chosen or [nearest]))


def _codes(values: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the different values in order, the index of each value among them, and how often each of them occurs."""
    names = sorted(set(values))
    code_of = {name: code for code, name in enumerate(names)}
    codes = np.fromiter((code_of[value] for value in values), dtype=np.int32, count=len(values))
    return names, codes, np.bincount(codes, minlength=len(names))


def _apportion(weights: np.ndarray, count: int) -> np.ndarray:
    """Divide `count` in proportion to `weights`, by largest remainder, with no share above its weight."""
    count = min(count, int(weights.sum()))
    quotas = count * weights / max(1, weights.sum())
    shares = np.floor(quotas).astype(np.int64)
    largest = np.argsort(shares - quotas, kind="stable")[: count - shares.sum()]
    shares[largest] += 1
    return np.asarray(shares)
