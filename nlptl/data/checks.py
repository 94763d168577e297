"""What is wrong with the data, before anything is trained: errors stop the run, warnings are reported."""

import itertools
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from nlptl.config import TaskKind, TextsShown
from nlptl.data.columns import describe_rows
from nlptl.data.findings import EXPLANATIONS, Finding, finding, finding_on, target_finding
from nlptl.data.languages import find_other_languages
from nlptl.data.leakage import find_leaking_words
from nlptl.data.near_duplicates import find_near_duplicates
from nlptl.data.scripts import find_other_scripts
from nlptl.data.sources import Examples
from nlptl.data.targets import label_sets, target_problem
from nlptl.errors import DataError
from nlptl.wording import list_names

logger = logging.getLogger(__name__)

EMPTY = hash("")

CLASS_TASKS = ("single_label", "ordinal")
"""Kinds of tasks in which every text has one label."""

# Tab, line feed, form feed and carriage return are blanks. U+FFFD stands where a decoder met bytes that were no text.
_CONTROL_CHARACTER = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")

_BYTES = {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"}
"""The bytes of the characters that Windows-1252 has and Latin-1 has not; of all others, the byte is their number."""

_IDENTIFIER = re.compile(r"(?=\S*\d)[\w.:#/-]+")
_BETWEEN_COLUMNS = re.compile(r"[\t,;|]")
MIN_IDENTIFIERS = 20
"""Texts or labels below which it cannot be told whether they are identifiers."""


def check_splits(
    splits: Mapping[str, Examples],
    *,
    strict: bool = False,
    near_duplicates: bool = True,
    task: TaskKind = "single_label",
    texts_shown: TextsShown = "whole",
) -> list[Finding]:
    """Return the warnings on `splits`.

    Args:
        splits: As in `find_problems`.
        strict: Stop at warnings too.
        near_duplicates: As in `find_problems`.
        task: As in `find_problems`.
        texts_shown: As in `find_problems`.

    Raises:
        DataError: If an error is among the findings; with `strict`, if there is any finding.
    """
    for error in _class_errors(splits, task):  # before what takes time
        raise DataError(f"{error.message}. {error.action}".rstrip())
    findings = find_problems(splits, near_duplicates=near_duplicates, task=task, texts_shown=texts_shown)
    if strict and findings:
        raise DataError(f"Expected data without findings (--strict), found {describe_findings(findings)}")
    return findings


def find_problems(
    splits: Mapping[str, Examples],
    *,
    near_duplicates: bool = True,
    task: TaskKind = "single_label",
    texts_shown: TextsShown = "whole",
) -> list[Finding]:
    """Return the findings on `splits`, errors first.

    Two texts count as the same if they differ only in case and in blanks at their ends; two pairs, if both texts do.

    Args:
        splits: "train", and "validation" and "test" where they are, in this order.
        near_duplicates: Look for texts that are nearly the same too, which takes most of the time; not for pairs, of
            which many share a text.
        task: What the labels are.
        texts_shown: Whether findings quote single words of the texts ("whole") or not ("none").
    """
    train = splits["train"]
    keys = {name: _digests(examples) for name, examples in splits.items()}
    findings: list[Finding | None] = [*_class_errors(splits, task)]
    findings += [_empty_texts(name, examples, keys[name]) for name, examples in splits.items()]
    for first, second in itertools.combinations(splits, 2):
        findings.append(_leak(first, second, keys, splits))
        findings.append(_group_leak(first, splits[first], splits[second], second))
    for name, examples in splits.items():
        findings += _repeated_texts(name, examples, keys[name])
    sets = {name: label_sets(examples.labels, task) for name, examples in splits.items()}
    counts = Counter(label for labels in sets["train"] for label in labels)
    if task in (*CLASS_TASKS, "multi_label"):
        findings.append(_label_collisions(train, sets["train"], counts))
    if task in CLASS_TASKS:
        findings += [_rows_in_texts(name, examples, counts) for name, examples in splits.items()]
    findings.append(_small_classes(train, sets["train"], counts))
    findings += [_missing_classes(name, splits[name], sets[name], counts) for name in splits if name != "train"]
    findings.append(_identifiers(train))
    findings += [_control_characters(name, examples) for name, examples in splits.items()]
    findings += [_mojibake(name, examples) for name, examples in splits.items()]
    findings += [find_other_scripts(name, examples) for name, examples in splits.items()]
    findings += [find_other_languages(name, examples) for name, examples in splits.items()]
    if task in CLASS_TASKS:
        findings += find_leaking_words(train, texts_shown=texts_shown)
    if near_duplicates and not len(train.pairs):
        findings += find_near_duplicates(splits, _first_of_their_kind(keys))
    return [each for each in findings if each is not None]


def describe_findings(findings: Sequence[Finding]) -> str:
    """Return the findings as a list to read, worst first, each with what it means and what to do."""
    kinds = list(EXPLANATIONS)
    ordered = sorted(findings, key=lambda each: (each.severity != "error", kinds.index(each.kind)))
    count = Counter(each.severity for each in ordered)
    total = " and ".join(
        f"{count[severity]} {severity}{'s' * (count[severity] > 1)}"
        for severity in ("error", "warning")
        if count[severity]
    )
    items = [f"{each.severity}: {each.message}\n    {each.meaning}\n    {each.action}" for each in ordered]
    return "\n".join([f"{total or 'nothing'}:" if items else "nothing", *items])


def drop_empty_texts(examples: Examples) -> Examples:
    """Return the examples whose text, or one of whose two texts, is not blank.

    Raises:
        DataError: If all of them are.
    """
    is_empty = _digests(examples) == EMPTY
    if is_empty.all():
        raise DataError(
            f"Expected texts in {examples.source} ({examples.split}), found empty ones alone. Pass "
            "another --text-column."
        )
    if is_empty.any():
        count = f"{int(is_empty.sum()):,}"
        logger.info("%s: %s empty texts of %s are left out", examples.source, count, examples.split)
    return examples.select(np.flatnonzero(~is_empty)) if is_empty.any() else examples


def drop_copies(splits: Mapping[str, Examples]) -> Examples:
    """Return train without what is also in another split, and what stands in it before with the same label."""
    train = splits["train"]
    keys = {name: _digests(examples) for name, examples in splits.items()}
    others = np.concatenate([np.zeros(0, dtype=np.int64), *(keys[name] for name in splits if name != "train")])
    is_text = keys["train"] != EMPTY
    is_leak = np.isin(keys["train"], others) & is_text
    code_of = {label: code for code, label in enumerate(set(train.labels))}
    codes = np.fromiter((code_of[label] for label in train.labels), dtype=np.int64, count=len(train))
    pairs = np.stack([keys["train"], codes], axis=1)
    is_repeated = np.ones(len(train), dtype=bool)
    is_repeated[np.unique(pairs, axis=0, return_index=True)[1]] = False
    is_repeated &= is_text & ~is_leak
    logger.info(
        "%s: dropped %s texts of train that are also in another split, and %s later duplicates",
        *(train.source, f"{int(is_leak.sum()):,}", f"{int(is_repeated.sum()):,}"),
    )
    return train.select(np.flatnonzero(~is_leak & ~is_repeated))


def _class_errors(splits: Mapping[str, Examples], task: TaskKind) -> list[Finding]:
    if task not in CLASS_TASKS:
        return [*_impossible_targets(splits, task), *_unknown_labels(splits, task)]
    train = splits["train"]
    known = set(train.labels)
    errors = []
    if len(known) < 2:
        message = f"Expected two or more classes in {train.source} (train), found {sorted(known)}"
        errors.append(finding("one_class", message, count=len(known), severity="error"))
    if len(known) > max(1000, len(train) / 2) or len(known) == len(train) >= MIN_IDENTIFIERS:
        message = (
            f"Expected classes in {train.source} (train), found {len(known):,} different labels on {len(train):,} "
            f"examples, such as {train.labels[0]!r}, which looks like an identifier"
        )
        errors.append(finding("identifier", message, count=len(known), severity="error"))
    for name, examples in splits.items():
        unknown = Counter(label for label in examples.labels if label not in known)
        if unknown:
            label = min(unknown)
            rows = [row for row, other in zip(examples.rows, examples.labels, strict=True) if other == label]
            more = f" and {len(unknown) - 1} more such labels" if len(unknown) > 1 else ""
            message = (
                f"Expected only labels of train ({list_names(sorted(known), 10)}) in {examples.source} ({name}), found "
                f"{label!r} in {describe_rows(rows)}{more}"
            )
            count = sum(unknown.values())
            errors.append(finding("unknown_label", message, rows=rows, count=count, severity="error"))
    return errors


def _impossible_targets(splits: Mapping[str, Examples], task: TaskKind) -> list[Finding]:
    """Find what a model of the task cannot be trained on, such as tags that are no spans."""
    found = []
    for name, examples in splits.items():
        where = f"{examples.source} ({name})"
        if problem := target_problem(examples.labels, task, where=where, is_train=name == "train"):
            found.append(target_finding(problem))
    return found


def _unknown_labels(splits: Mapping[str, Examples], task: TaskKind) -> list[Finding]:
    """Find the labels of a text, or the types of its tags, that no text of train has."""
    errors = []
    known = {_type(label, task) for labels in label_sets(splits["train"].labels, task) for label in labels}
    for name, examples in splits.items():
        sets = [{_type(label, task) for label in labels} - known for labels in label_sets(examples.labels, task)]
        if unknown := Counter(label for labels in sets for label in labels):
            label = min(unknown)
            rows = [row for row, labels in zip(examples.rows, sets, strict=True) if label in labels]
            more = f" and {len(unknown) - 1} more such labels" if len(unknown) > 1 else ""
            message = (
                f"Expected only labels of train ({list_names(sorted(known), 10)}) in {examples.source} ({name}), found "
                f"{label!r} in {describe_rows(rows)}{more}"
            )
            errors.append(finding("unknown_label", message, rows=rows, count=sum(unknown.values()), severity="error"))
    return errors


def _type(label: str, task: TaskKind) -> str:
    """Return a label; of a tag, the type of span, whether it begins one or goes on with it."""
    return label.partition("-")[2] or label if task == "tokens" else label


def _digests(examples: Examples) -> np.ndarray:
    """Return 64 bits for each text, or pair of texts, that are the same where texts count as the same.

    Among ten million texts that differ, the chance that any two have the same bits is one in 300,000.
    """
    keys: Iterable[object] = (text.strip().casefold() for text in examples.texts)
    if len(examples.pairs):
        others = (text.strip().casefold() for text in examples.pairs)
        keys = (pair if any(pair) else "" for pair in zip(keys, others, strict=True))
    return np.fromiter(map(hash, keys), dtype=np.int64, count=len(examples))


def _first_of_their_kind(keys: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return for each text of each split whether it is neither empty nor the copy of one before."""
    joined = np.concatenate(list(keys.values()))
    is_first = np.zeros(len(joined), dtype=bool)
    is_first[np.unique(joined, return_index=True)[1]] = True
    is_first &= joined != EMPTY
    ends = np.cumsum([len(each) for each in keys.values()])
    return dict(zip(keys, np.split(is_first, ends[:-1]), strict=True))


def _empty_texts(name: str, examples: Examples, keys: np.ndarray) -> Finding | None:
    return finding_on("empty_text", f"{examples.source}: empty texts in {name}", examples, keys == EMPTY)


def _leak(first: str, second: str, keys: Mapping[str, np.ndarray], splits: Mapping[str, Examples]) -> Finding | None:
    order, wanted, examples = np.argsort(keys[first], kind="stable"), keys[second], splits[second]
    seen = keys[first][order]
    places = np.minimum(np.searchsorted(seen, wanted), len(seen) - 1)
    is_leak = (seen[places] == wanted) & (wanted != EMPTY)
    of_first = splits[first].labels
    count = sum(examples.labels[i] != of_first[order[places[i]]] for i in np.flatnonzero(is_leak))
    other = f" ({count:,} with another label)" if count else ""
    return finding_on(
        "leak", f"{examples.source}: texts in {second} that are also in {first}{other}", examples, is_leak
    )


def _group_leak(first: str, examples: Examples, others: Examples, second: str) -> Finding | None:
    groups = set(examples.groups)
    is_leak = np.fromiter((group in groups for group in others.groups), dtype=bool)
    what = f"{others.source}: texts in {second} whose group is also in {first}"
    return finding_on("group_leak", what, others, is_leak) if is_leak.any() else None


def _repeated_texts(name: str, examples: Examples, keys: np.ndarray) -> list[Finding | None]:
    """Find later duplicates within a split: with the same label, or with a conflicting one."""
    # After sorting, equal texts are neighbors, each group in the order of the split.
    order = np.argsort(keys, kind="stable")
    ascending = keys[order]
    is_repeated = np.concatenate([[False], (ascending[1:] == ascending[:-1]) & (ascending[1:] != EMPTY)])
    repeated = np.flatnonzero(is_repeated)
    groups = np.flatnonzero(~is_repeated[:-1] & is_repeated[1:])
    first = order[groups[np.searchsorted(groups, repeated) - 1]]
    is_same, is_conflict = np.zeros((2, len(examples)), dtype=bool)
    for i, j in zip(order[repeated], first, strict=True):
        (is_same if examples.labels[i] == examples.labels[j] else is_conflict)[i] = True
    what = f"{examples.source}: duplicate texts in {name} with"
    return [
        finding_on("conflict", f"{what} conflicting labels", examples, is_conflict),
        finding_on("duplicate", f"{what} the same label", examples, is_same),
    ]


def _label_collisions(train: Examples, sets: Sequence[tuple[str, ...]], counts: Counter[str]) -> Finding | None:
    """Find the labels of which another one, with more examples, differs only in what is hardly seen."""
    spellings = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        spellings[_spelling(label)].append(label)
    groups = [group for group in spellings.values() if len(group) > 1]
    rarer = {label for group in groups for label in group[1:]}
    is_rarer = np.fromiter((not rarer.isdisjoint(labels) for labels in sets), dtype=bool)
    shown = "; ".join(" and ".join(map(_shown, group)) for group in groups[:5])
    shown += f"; ... ({len(groups)} such groups)" if len(groups) > 5 else ""
    what = (
        f"{train.source}: labels that differ only in case, blanks or form of Unicode from a more frequent one ({shown})"
    )
    return finding_on("label_collision", what, train, is_rarer)


def _shown(label: str) -> str:
    return repr(label) if unicodedata.is_normalized("NFC", label) else ascii(label)


def _spelling(label: str) -> str:
    """Return a label without blanks and marks that take no room, in one case and one form of Unicode."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(sign for sign in folded if not sign.isspace() and unicodedata.category(sign) != "Cf")


def _rows_in_texts(name: str, examples: Examples, labels: Container[str]) -> Finding | None:
    """Find the texts that hold whole rows of a file, as they do where a quotation mark was taken for an opening one."""

    def holds_rows(text: str) -> bool:
        rows = [_BETWEEN_COLUMNS.split(line) for line in text.splitlines() if line.strip()]
        ends = len(rows) > 1 and all(len(row) > 1 and row[-1].strip() in labels for row in rows[:-1])
        return ends or (len(rows) > 1 and all(len(row) > 1 and row[0].strip() in labels for row in rows[1:]))

    has_rows = np.fromiter(map(holds_rows, examples.texts), dtype=bool, count=len(examples))
    what = f"{examples.source}: texts in {name} that contain whole rows of a file"
    return finding_on("rows_in_text", what, examples, has_rows)


def _control_characters(name: str, examples: Examples) -> Finding | None:
    search = _CONTROL_CHARACTER.search
    is_garbled = np.fromiter((search(text) is not None for text in examples.texts), dtype=bool, count=len(examples))
    what = f"{examples.source}: texts in {name} with control characters or undecodable bytes"
    return finding_on("control_character", what, examples, is_garbled)


def _mojibake(name: str, examples: Examples) -> Finding | None:
    """Find texts such as caf\u00c3\u00a9, which are UTF-8 that was decoded as Latin-1 or Windows-1252."""
    is_garbled = np.fromiter(map(_is_mojibake, examples.texts), dtype=bool, count=len(examples))
    return finding_on("mojibake", f"{examples.source}: wrongly decoded texts in {name}", examples, is_garbled)


def _is_mojibake(text: str) -> bool:
    if text.isascii():
        return False
    try:
        return len(bytes(_BYTES.get(sign, ord(sign)) for sign in text).decode()) < len(text)
    except ValueError:  # of a character beyond the 256, or of bytes that are no UTF-8
        return False


def _small_classes(train: Examples, sets: Sequence[tuple[str, ...]], counts: Counter[str]) -> Finding | None:
    small = {label for label, count in counts.items() if count < 2}
    is_small = np.fromiter((not small.isdisjoint(labels) for labels in sets), dtype=bool)
    what = f"{train.source}: classes with a single example in train ({list_names(sorted(small), 10)})"
    return finding_on("small_class", what, train, is_small)


def _missing_classes(
    name: str, examples: Examples, sets: Sequence[tuple[str, ...]], counts: Counter[str]
) -> Finding | None:
    missing = counts.keys() - {label for labels in sets for label in labels}
    message = (
        f"{examples.source}: {len(missing)} of {len(counts)} classes have no example in {name} "
        f"({list_names(sorted(missing), 10)})"
    )
    return finding("missing_class", message, count=len(missing)) if missing else None


def _identifiers(train: Examples) -> Finding | None:
    """Find out whether nearly all texts are one word with a digit in it, and differ, as identifiers do."""
    if any(" " in text.strip() for text in train.texts[: len(train) // 10 + 1]) or len(train) < MIN_IDENTIFIERS:
        return None
    search = _IDENTIFIER.fullmatch
    is_identifier = np.fromiter((search(text.strip()) is not None for text in train.texts), bool, count=len(train))
    if is_identifier.mean() < 0.95 or len(set(train.texts)) < 0.95 * len(train):
        return None
    return finding_on(
        "identifier_text", f"{train.source}: texts in train that look like identifiers", train, is_identifier
    )
