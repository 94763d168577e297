"""What is wrong with the data, before anything is trained: errors stop the run, findings are reported."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from nlptl.data.columns import describe_rows
from nlptl.data.sources import Examples
from nlptl.errors import DataError


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
    keys = {name: [text.strip().casefold() for text in examples.texts] for name, examples in splits.items()}
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


def _empty_texts(name: str, examples: Examples, keys: list[str]) -> Finding | None:
    rows = [row for row, key in zip(examples.rows, keys, strict=True) if not key]
    return _finding("empty_text", f"{examples.source}: empty texts in {name}", rows)


def _leak(first: str, second: str, keys: Mapping[str, list[str]], examples: Examples) -> Finding | None:
    seen = set(keys[first])
    rows = [row for row, key in zip(examples.rows, keys[second], strict=True) if key and key in seen]
    return _finding("leak", f"{examples.source}: texts of {second} that are also in {first}", rows)


def _repeated_texts(train: Examples, keys: list[str]) -> list[Finding | None]:
    """Find texts of train that stand there before: with the same label, or in conflict with another one."""
    label_of: dict[str, str] = {}
    same: list[int] = []
    conflicting: list[int] = []
    for row, key, label in zip(train.rows, keys, train.labels, strict=True):
        if not key:
            continue
        if key not in label_of:
            label_of[key] = label
        else:
            (same if label_of[key] == label else conflicting).append(row)
    return [
        _finding("conflict", f"{train.source}: texts of train that stand there before with another label", conflicting),
        _finding("duplicate", f"{train.source}: texts of train that stand there before with the same label", same),
    ]


def _small_classes(train: Examples, counts: Counter[str]) -> Finding | None:
    small = {label for label, count in counts.items() if count < 2}
    rows = [row for row, label in zip(train.rows, train.labels, strict=True) if label in small]
    return _finding("small_class", f"{train.source}: classes with a single example in train ({_some(small)})", rows)


def _missing_classes(test: Examples, counts: Counter[str]) -> Finding | None:
    missing = counts.keys() - set(test.labels)
    message = f"{test.source}: {len(missing)} of {len(counts)} classes have no example in test ({_some(missing)})"
    return Finding("missing_class", message, len(missing), ()) if missing else None


def _finding(kind: str, what: str, rows: list[int]) -> Finding | None:
    return Finding(kind, f"{what}: {describe_rows(rows)}", len(rows), tuple(rows[:5])) if rows else None


def _some(labels: set[str], most: int = 10) -> str:
    shown = ", ".join(repr(label) for label in sorted(labels)[:most])
    return shown + (f", ... ({len(labels)} in all)" if len(labels) > most else "")
