"""What is wrong with the data, before anything is trained: errors stop the run, findings are reported."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nlptl.data.columns import describe_rows
from nlptl.data.sources import Examples
from nlptl.errors import DataError

EMPTY = hash("")


@dataclass(frozen=True)
class Finding:
    """Something in the data that a user should know, and where it stands."""

    kind: str
    """empty_text, leak, conflict, duplicate, small_class or missing_class"""
    message: str
    count: int
    rows: tuple[int, ...]
    """The first five rows; none for missing_class."""


def check_splits(splits: Mapping[str, Examples]) -> list[Finding]:
    """Return the findings on `splits`; "train" is one of them, "validation" and "test" may be.

    Two texts count as the same if they differ only in case and in blanks at their ends.

    Raises:
        DataError: If train has a single class or as many as an identifier has, or if another split has a class that
            train lacks.
    """
    _check_classes(splits)
    keys = {name: _digests(examples.texts) for name, examples in splits.items()}
    findings = [_empty_texts(name, examples, keys[name]) for name, examples in splits.items()]
    for first, second in itertools.combinations(splits, 2):
        findings.append(_leak(first, second, keys, splits[second]))
    findings += _repeated_texts(splits["train"], keys["train"])
    counts = Counter(splits["train"].labels)
    findings.append(_small_classes(splits["train"], counts))
    if "test" in splits:
        findings.append(_missing_classes(splits["test"], counts))
    return [finding for finding in findings if finding is not None]


def _check_classes(splits: Mapping[str, Examples]) -> None:
    train = splits["train"]
    known = set(train.labels)
    if len(known) < 2:
        raise DataError(
            f"Expected two or more classes in {train.source} (train), found {sorted(known)}. "
            "Pass another label column, or add examples of other classes."
        )
    if len(known) > max(1000, len(train) / 2):
        raise DataError(
            f"Expected classes in {train.source} (train), found {len(known):,} different labels on {len(train):,} "
            f"examples, such as {train.labels[0]!r}, which looks like an identifier. Pass another label column."
        )
    for name, examples in splits.items():
        unknown = Counter(label for label in examples.labels if label not in known)
        if unknown:
            label = min(unknown)
            rows = [row for row, other in zip(examples.rows, examples.labels, strict=True) if other == label]
            more = f" and {len(unknown) - 1} more such labels" if len(unknown) > 1 else ""
            raise DataError(
                f"Expected only labels of train ({_some(known)}) in {examples.source} ({name}), found {label!r} in "
                f"{describe_rows(rows)}{more}. Rename or delete these rows, or add examples of the class to train."
            )


def _digests(texts: Sequence[str]) -> np.ndarray:
    """Return 64 bits for each text that are the same where texts count as the same.

    Among ten million texts that differ, the chance that any two have the same bits is one in 300,000.
    """
    return np.fromiter((hash(text.strip().casefold()) for text in texts), dtype=np.int64, count=len(texts))


def _empty_texts(name: str, examples: Examples, keys: np.ndarray) -> Finding | None:
    return _finding("empty_text", f"{examples.source}: empty texts in {name}", examples, keys == EMPTY)


def _leak(first: str, second: str, keys: Mapping[str, np.ndarray], examples: Examples) -> Finding | None:
    seen, wanted = np.sort(keys[first]), keys[second]
    places = np.minimum(np.searchsorted(seen, wanted), len(seen) - 1)
    is_leak = (seen[places] == wanted) & (wanted != EMPTY)
    return _finding("leak", f"{examples.source}: texts of {second} that are also in {first}", examples, is_leak)


def _repeated_texts(train: Examples, keys: np.ndarray) -> list[Finding | None]:
    """Find texts of train that stand there before: with the same label, or in conflict with another one."""
    # Texts that are the same stand together, each group in the order of train.
    order = np.argsort(keys, kind="stable")
    ascending = keys[order]
    is_repeated = np.concatenate([[False], (ascending[1:] == ascending[:-1]) & (ascending[1:] != EMPTY)])
    repeated = np.flatnonzero(is_repeated)
    groups = np.flatnonzero(~is_repeated[:-1] & is_repeated[1:])
    first = order[groups[np.searchsorted(groups, repeated) - 1]]
    is_same, is_conflict = np.zeros((2, len(train)), dtype=bool)
    for i, j in zip(order[repeated], first, strict=True):
        (is_same if train.labels[i] == train.labels[j] else is_conflict)[i] = True
    same, other = (
        f"{train.source}: texts of train that stand there before with {w} label" for w in ("the same", "another")
    )
    return [_finding("conflict", other, train, is_conflict), _finding("duplicate", same, train, is_same)]


def _small_classes(train: Examples, counts: Counter[str]) -> Finding | None:
    small = {label for label, count in counts.items() if count < 2}
    is_small = np.fromiter((label in small for label in train.labels), dtype=bool)
    what = f"{train.source}: classes with a single example in train ({_some(small)})"
    return _finding("small_class", what, train, is_small)


def _missing_classes(test: Examples, counts: Counter[str]) -> Finding | None:
    missing = counts.keys() - set(test.labels)
    message = f"{test.source}: {len(missing)} of {len(counts)} classes have no example in test ({_some(missing)})"
    return Finding("missing_class", message, len(missing), ()) if missing else None


def _finding(kind: str, what: str, examples: Examples, is_meant: np.ndarray) -> Finding | None:
    """Return a finding on the examples that are meant, a bool for each; None: on none."""
    rows = np.asarray(examples.rows)[is_meant]
    return Finding(kind, f"{what}: {describe_rows(rows)}", len(rows), tuple(rows[:5].tolist())) if len(rows) else None


def _some(labels: set[str], most: int = 10) -> str:
    shown = ", ".join(repr(label) for label in sorted(labels)[:most])
    return shown + (f", ... ({len(labels)} in all)" if len(labels) > most else "")
