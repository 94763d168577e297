"""Checks of the data before anything is trained: errors stop the run, warnings are reported."""

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
from nlptl.data.sources import Examples
from nlptl.data.targets import label_sets, target_problem
from nlptl.errors import DataError
from nlptl.wording import list_names

logger = logging.getLogger(__name__)

EMPTY = hash("")

CLASS_TASKS = ("single_label", "ordinal")
"""Kinds of tasks in which every text has one label."""

# Tab, line feed, form feed and carriage return are blanks. U+FFFD replaces bytes that a decoder could not decode.
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")

_BYTES = {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"}
"""The bytes of the characters that Windows-1252 has and Latin-1 has not; of all others, the byte is their number."""

_IDENTIFIER = re.compile(r"(?=\S*\d)[\w.:#/-]+")
_BETWEEN_COLUMNS = re.compile(r"[\t,;|]")
MIN_IDENTIFIERS = 20
"""Fewer texts or labels are never taken for identifiers."""


def refuse(findings: Sequence[Finding], *, strict: bool = False) -> None:
    """Stop at the first error; with `strict`, at any finding.

    Raises:
        DataError: If there is one.
    """
    for error in (each for each in findings if each.severity == "error"):
        raise DataError(f"{error.message}. {error.action}")
    if strict and findings:
        raise DataError(f"Expected data without findings (--strict), found {describe_findings(findings)}")


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
        splits: "train", and "validation" and "test" if there are any, in this order.
        near_duplicates: Look for near-duplicate texts too, which takes most of the time; never done for pairs, many of
            which share a text.
        task: Kind of target.
        texts_shown: Whether findings quote single words of the texts ("whole") or not ("none").
    """
    train = splits["train"]
    keys = {name: _digests(examples) for name, examples in splits.items()}
    sets = {name: label_sets(examples.labels, task) for name, examples in splits.items()}
    counts = Counter(label for labels in sets["train"] for label in labels)
    findings: list[Finding | None] = [*find_errors(splits, task)]
    for first, second in itertools.combinations(splits, 2):
        findings += [_leak(first, second, keys, splits), _group_leak(first, second, splits)]
    if task in (*CLASS_TASKS, "multi_label"):
        findings.append(_label_collisions(train, sets["train"], counts))
    findings += [_small_classes(train, sets["train"], counts), _identifiers(train)]
    for name, examples in splits.items():
        findings.append(finding_on("empty_text", f"empty texts in {name}", examples, keys[name] == EMPTY))
        findings += _repeated_texts(name, examples, keys[name])
        if missing := sorted(counts.keys() - {label for labels in sets[name] for label in labels}):
            what = f"{len(missing)} of {len(counts)} classes have no example in {name} ({list_names(missing, 10)})"
            findings.append(finding("missing_class", f"{examples.source}: {what}", count=len(missing)))
        if task in CLASS_TASKS:
            holds_rows = (_holds_rows(text, counts) for text in examples.texts)
            what = f"texts in {name} that contain whole rows of a file"
            findings.append(finding_on("rows_in_text", what, examples, holds_rows))
        what = f"texts in {name} with control characters or undecodable bytes"
        findings.append(finding_on("control_character", what, examples, map(_CONTROL.search, examples.texts)))
        what = f"wrongly decoded texts in {name}"
        findings.append(finding_on("mojibake", what, examples, map(_is_mojibake, examples.texts)))
        findings += find_other_languages(name, examples)
    if task in CLASS_TASKS:
        findings += find_leaking_words(train, texts_shown=texts_shown)
    if near_duplicates and not len(train.pairs):
        findings += find_near_duplicates(splits, _first_of_their_kind(keys))
    return [each for each in findings if each is not None]


def describe_findings(findings: Sequence[Finding]) -> str:
    """Format the findings as a list, worst first, each with what it means and what to do."""
    kinds = list(EXPLANATIONS)
    ordered = sorted(findings, key=lambda each: (each.severity != "error", kinds.index(each.kind)))
    if not ordered:
        return "nothing"
    counts = Counter(each.severity for each in ordered)
    total = " and ".join(f"{count} {severity}{'s' * (count > 1)}" for severity, count in counts.items())
    items = [f"{each.severity}: {each.message}\n    {each.meaning}\n    {each.action}" for each in ordered]
    return "\n".join([f"{total}:", *items])


def drop_empty_texts(examples: Examples) -> Examples:
    """Drop the examples whose text, or each of whose two texts, is blank.

    Raises:
        DataError: If all of them are.
    """
    is_empty = _digests(examples) == EMPTY
    if is_empty.all():
        where = f"{examples.source} ({examples.split})"
        raise DataError(f"Expected texts in {where}, found only empty ones. Pass another --text-column.")
    if not is_empty.any():
        return examples
    count = "1 empty text" if is_empty.sum() == 1 else f"{int(is_empty.sum()):,} empty texts"
    logger.info("%s: left out %s of %s", examples.source, count, examples.split)
    return examples.select(np.flatnonzero(~is_empty))


def drop_copies(splits: Mapping[str, Examples]) -> Examples:
    """Drop from train every text that is also in another split, and every later duplicate with the same label."""
    train = splits["train"]
    keys = {name: _digests(examples) for name, examples in splits.items()}
    others = np.concatenate([np.zeros(0, dtype=np.int64), *(keys[name] for name in splits if name != "train")])
    is_text = keys["train"] != EMPTY
    is_leak = np.isin(keys["train"], others) & is_text
    labelled = np.fromiter(map(hash, zip(keys["train"].tolist(), train.labels, strict=True)), dtype=np.int64)
    is_repeated = is_text & ~is_leak & ~_is_first(labelled)
    logger.info(
        "%s: dropped %s texts of train that are also in another split, and %s later duplicates",
        *(train.source, f"{int(is_leak.sum()):,}", f"{int(is_repeated.sum()):,}"),
    )
    return train.select(np.flatnonzero(~is_leak & ~is_repeated))


def find_errors(splits: Mapping[str, Examples], task: TaskKind) -> list[Finding]:
    """Return the findings on targets that no model of the task can be trained or scored on; takes little time."""
    train, errors = splits["train"], list[Finding]()
    for name, examples in splits.items():
        where = f"{examples.source} ({name})"
        if problem := target_problem(examples.labels, task, where=where, is_train=name == "train"):
            errors.append(target_finding(problem))
    if task in CLASS_TASKS:
        known = set(train.labels)
        if len(known) < 2:
            message = f"Expected two or more classes in {train.source} (train), found {sorted(known)}"
            errors.append(finding("one_class", message, count=len(known)))
        if len(known) > max(1000, len(train) / 2) or len(known) == len(train) >= MIN_IDENTIFIERS:
            message = (
                f"Expected classes in {train.source} (train), found {len(known):,} different labels on {len(train):,} "
                f"examples, such as {train.labels[0]!r}, which looks like an identifier"
            )
            errors.append(finding("identifier", message, count=len(known)))
    return errors + _unknown_labels(splits, task)


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
            errors.append(finding("unknown_label", message, rows=rows, count=sum(unknown.values())))
    return errors


def _type(label: str, task: TaskKind) -> str:
    """Return a label; for a tag such as B-person or I-person, its type of span."""
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
    """Return for each text of each split whether it is neither empty nor a copy of an earlier one."""
    joined = np.concatenate(list(keys.values()))
    ends = np.cumsum([len(each) for each in keys.values()])
    return dict(zip(keys, np.split(_is_first(joined) & (joined != EMPTY), ends[:-1]), strict=True))


def _is_first(values: np.ndarray) -> np.ndarray:
    """Return for each value whether no earlier one is equal to it."""
    is_first = np.zeros(len(values), dtype=bool)
    is_first[np.unique(values, return_index=True)[1]] = True
    return is_first


def _leak(first: str, second: str, keys: Mapping[str, np.ndarray], splits: Mapping[str, Examples]) -> Finding | None:
    order, wanted, examples = np.argsort(keys[first], kind="stable"), keys[second], splits[second]
    seen = keys[first][order]
    places = np.minimum(np.searchsorted(seen, wanted), len(seen) - 1)
    is_leak = (seen[places] == wanted) & (wanted != EMPTY)
    of_first = splits[first].labels
    count = sum(examples.labels[i] != of_first[order[places[i]]] for i in np.flatnonzero(is_leak))
    other = f" ({count:,} with another label)" if count else ""
    return finding_on("leak", f"texts in {second} that are also in {first}{other}", examples, is_leak)


def _group_leak(first: str, second: str, splits: Mapping[str, Examples]) -> Finding | None:
    groups, others = set(splits[first].groups), splits[second]
    is_leak = (group in groups for group in others.groups)
    return finding_on("group_leak", f"texts in {second} whose group is also in {first}", others, is_leak)


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
    return [
        finding_on("conflict", f"duplicate texts in {name} with conflicting labels", examples, is_conflict),
        finding_on("duplicate", f"duplicate texts in {name} with the same label", examples, is_same),
    ]


def _label_collisions(train: Examples, sets: Sequence[tuple[str, ...]], counts: Counter[str]) -> Finding | None:
    """Find labels that differ from a more frequent one only in what is hardly visible."""
    spellings = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        spellings[_spelling(label)].append(label)
    groups = [group for group in spellings.values() if len(group) > 1]
    rarer = {label for group in groups for label in group[1:]}
    shown = "; ".join(" and ".join(map(_shown, group)) for group in groups[:5])
    shown += f"; ... ({len(groups)} such groups)" if len(groups) > 5 else ""
    what = f"labels that differ only in case, blanks or form of Unicode from a more frequent one ({shown})"
    return finding_on("label_collision", what, train, (not rarer.isdisjoint(labels) for labels in sets))


def _shown(label: str) -> str:
    return repr(label) if unicodedata.is_normalized("NFC", label) else ascii(label)


def _spelling(label: str) -> str:
    """Return a label without blanks and invisible characters, in one case and one form of Unicode."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(sign for sign in folded if not sign.isspace() and unicodedata.category(sign) != "Cf")


def _holds_rows(text: str, labels: Container[str]) -> bool:
    """Tell whether a text holds rows of a file, as it does where a quotation mark was taken for an opening one."""
    rows = [_BETWEEN_COLUMNS.split(line) for line in text.splitlines() if line.strip()]
    ends = len(rows) > 1 and all(len(row) > 1 and row[-1].strip() in labels for row in rows[:-1])
    return ends or (len(rows) > 1 and all(len(row) > 1 and row[0].strip() in labels for row in rows[1:]))


def _is_mojibake(text: str) -> bool:
    """Tell whether a text, such as caf\u00c3\u00a9, is UTF-8 that was decoded as Latin-1 or Windows-1252."""
    if text.isascii():
        return False
    try:
        return len(bytes(_BYTES.get(sign, ord(sign)) for sign in text).decode()) < len(text)
    except ValueError:  # of a character beyond the 256, or of bytes that are no UTF-8
        return False


def _small_classes(train: Examples, sets: Sequence[tuple[str, ...]], counts: Counter[str]) -> Finding | None:
    small = {label for label, count in counts.items() if count < 2}
    what = f"classes with a single example in train ({list_names(sorted(small), 10)})"
    return finding_on("small_class", what, train, (not small.isdisjoint(labels) for labels in sets))


def _identifiers(train: Examples) -> Finding | None:
    """Report train if nearly all of its texts are different single words with a digit, as identifiers are."""
    if any(" " in text.strip() for text in train.texts[: len(train) // 10 + 1]) or len(train) < MIN_IDENTIFIERS:
        return None
    matches = (_IDENTIFIER.fullmatch(text.strip()) for text in train.texts)
    is_identifier = np.fromiter((match is not None for match in matches), dtype=bool, count=len(train))
    if is_identifier.mean() < 0.95 or len(set(train.texts)) < 0.95 * len(train):
        return None
    return finding_on("identifier_text", "texts in train that look like identifiers", train, is_identifier)
