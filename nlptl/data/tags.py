"""Lists of words with a tag for each: words as texts, tags in the scheme IOB2."""

import functools
import logging
import re
from collections.abc import Iterable, Sequence

from nlptl.data.columns import check_texts, shorten
from nlptl.data.label_columns import LabelColumns, Problem, RowCollector, listed, names_of
from nlptl.errors import DataError
from nlptl.values import is_missing

logger = logging.getLogger(__name__)

SCHEMES = ("BIES", "BILU", "BMES", "BMEW")
"""Letters of the schemes of tags: begin, inside, end or last, single, unit or whole. IOB1, IOB2 and IOE are in them."""
_TAG_OF_SPAN = re.compile("[BIESLUMW]-.+")


def words_as_texts(values: Iterable[object], rows: Sequence[int], *, where: str) -> list[str]:
    """Return lists of words as texts with a blank between two words; a word has no blank of its own.

    A list that is missing (null) or has no words is an empty text.

    Raises:
        DataError: If a value is no list of strings.
    """
    texts = []
    for value, row in zip(values, rows, strict=True):
        words = [] if is_missing(value) else listed(value)
        if words is None or not all(isinstance(word, str) for word in words):
            raise DataError(
                f"Expected a list of words for each text in {where}, found {shorten(value)} (row {row}). Pass the "
                'column with the words as --text-column; in a CSV, lists are JSON: ["In", "Rome"].'
            )
        # Another blank than the one between words keeps a word such as "1 1/2" in one piece.
        texts.append(" ".join("\u00a0".join(str(word).split()) for word in words))
    return check_texts(texts, rows, where=where)


def check_tags(texts: Sequence[str], tags: list[str], rows: Sequence[int], *, where: str) -> None:
    """Check that there is a tag for each word; a text without words gets the target O.

    Raises:
        DataError: If there are more or fewer.
    """
    for i, (text, each, row) in enumerate(zip(texts, tags, rows, strict=True)):
        num_words, num_tags = (part.count(" ") + bool(part) for part in (text, each))
        if not text and each in ("", "O"):
            tags[i] = "O"
        elif num_words != num_tags:
            raise DataError(
                f"Expected a tag for each word in {where}, found {num_words} words and {num_tags} tags (row {row}). "
                "Correct that row."
            )


def tag_collector(columns: LabelColumns) -> RowCollector:
    """Return a collector that reads tags as IOB2, in which the first word of a span has B- and the others I-.

    In IOB1 a span begins with I-, unless it follows one of its type; in IOBES, BILOU and the like its last word, and a
    span of one word, have letters of their own.
    """
    return RowCollector(_tags, columns, _all_as_iob2)


def _all_as_iob2(targets: list[str], columns: LabelColumns, rows: Sequence[int]) -> list[str]:
    tags = {tag for target in set(targets) for tag in target.split(" ")}
    prefixes = {tag[0] for tag in tags if _TAG_OF_SPAN.fullmatch(tag)}
    is_scheme = any(prefixes <= set(scheme) for scheme in SCHEMES)
    if not is_scheme or (prefixes & set("ELM") and not prefixes & set("BI")):
        return targets
    converted = list(map(functools.cache(_as_iob2), targets))
    changed = [pair for pair in zip(targets, converted, strict=True) if pair[0] != pair[1]]
    count = sum(a != b for before, after in changed for a, b in zip(before.split(), after.split(), strict=True))
    if others := sorted(prefixes - set("BI")):
        shown = ", ".join(f"{each}- as {'I' if each in 'ELM' else 'B'}-" for each in others)
        logger.info("%s: tags are read as IOB2: %s (%s tags)", columns.where, shown, f"{count:,}")
    elif count:
        logger.info("%s: %s tags I- that begin a span are read as B-", columns.where, f"{count:,}")
    return converted


def have_spans(targets: Sequence[str]) -> list[str]:
    """Return for each text whether it has tags besides O."""
    return ["O" if set(target.split(" ")) == {"O"} else "tagged" for target in targets]


def tag_problem(targets: Sequence[str], where: str, is_train: bool) -> Problem | None:
    """Find tags that are not IOB2, and a train split without spans."""
    tags = {tag for target in set(targets) for tag in target.split(" ")}
    odd = sorted(tag for tag in tags - {"O"} if not re.fullmatch("[BI]-.+", tag))
    if not odd:
        is_empty = is_train and tags <= {"O"}
        found = f"Expected tags of spans in {where}, found only O"
        return Problem(found, "Pass another --label-column.") if is_empty else None
    return Problem(f"Expected tags O, B-type and I-type (IOB2) in {where}, found {odd[0]!r}", _conversion(tags, odd))


def _as_iob2(target: str) -> str:
    """Return tags of any of the schemes as IOB2: a span begins at B, S, U and W, and where none of its type goes on."""
    found, before = [], "O"
    for tag in target.split(" "):
        is_of_span = _TAG_OF_SPAN.fullmatch(tag) is not None
        begins = tag[:1] in "BSUW" or before[2:] != tag[2:] or before[:1] in "OESLUW"
        found.append(f"{'B' if begins else 'I'}{tag[1:]}" if is_of_span else tag)
        before = tag if is_of_span else "O"
    return " ".join(found)


def _tags(values: Sequence[object], columns: LabelColumns, row: int) -> str:
    (value,) = values
    tags = names_of(listed(value), columns.class_names)
    if tags is None or any(not tag or tag.split() != [tag] for tag in tags):
        raise DataError(
            f"Expected a list of tags for each text in {columns.where}, found {shorten(value)} (row {row}). Pass the "
            'column with the tags as --label-column; in a CSV, lists are JSON: ["O", "B-person"].'
        )
    return " ".join(tags)


def _conversion(tags: set[str], odd: list[str]) -> str:
    """Return what to do with tags that are not IOB2."""
    if all(tag.isdigit() for tag in tags):
        return (
            "Write each tag by its name, such as O, B-person and I-person; or numbers in a file that names their "
            "classes, as the datasets library writes a ClassLabel."
        )
    if all(map(_TAG_OF_SPAN.fullmatch, odd)):
        return (
            "These are letters of several schemes. Convert the tags to IOB2: the first word of a span has B-, and all "
            "others of it I-."
        )
    if "O" not in tags:
        return (
            "A tag for every word, such as its part of speech, cannot be learned yet: only spans can, with O on all "
            "other words, B-type on the first word of a span and I-type on the rest of it."
        )
    return f"Convert the tags: B-{odd[0]} on the first word of each {odd[0]}, I-{odd[0]} on its other words."
