"""Findings of the checks of the data: how many there are, their rows, what they mean and what to do."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nlptl.data.columns import describe_rows
from nlptl.data.sources import Examples
from nlptl.data.targets import Problem

MOST_ROWS = 5

EXPLANATIONS = {
    "target": ("No model of this task can be trained on these targets.", "Correct them, or pass another --task."),
    "one_class": (
        "There is only one class, so there is nothing to learn.",
        "Pass another label column, or add examples of other classes.",
    ),
    "identifier": (
        "A class that occurs once can be neither learned nor scored.",
        "Pass the column that holds the classes as --label-column, or --task regression if these are scores.",
    ),
    "unknown_label": (
        "A model trained on train can never predict these labels.",
        "Rename or delete these rows, or add examples of the class to train.",
    ),
    "identifier_text": (
        "Identifiers carry no information about the label.",
        "Pass the column that holds the texts as --text-column.",
    ),
    "leak": (
        "The model was trained or selected on these texts, so the scores are too high.",
        "Pass --deduplicate, which drops from train every text of another split, or delete the rows.",
    ),
    "near_leak": (
        "The model was trained or selected on almost the same texts, so the scores are too high.",
        "Read some of the pairs and delete one of each; --group-column keeps texts of one source in one split.",
    ),
    "group_leak": (
        "Both splits contain texts of one source, so the scores say less about texts of other sources.",
        "Pass one file with all texts and --group-column, which splits by group, or move the rows.",
    ),
    "conflict": (
        "Any prediction for such a text is wrong for one of the copies.",
        "Decide on one label per text, and correct or delete the other rows.",
    ),
    "leaking_word": (
        "A single word gives the class away: a trace of how the data was made, such as a signature, or a real sign.",
        "Read some of the rows; delete the word from all texts if it will be missing when the model is used.",
    ),
    "label_collision": (
        "They are probably one class in several spellings, but they are learned and scored as several classes.",
        "Use one spelling per label; if they differ on purpose, give them clearly different names.",
    ),
    "label_word": (
        "The texts contain the name of their class: the model may rely on it and fail where it is missing.",
        "If the word was added together with the label, such as a tag or a heading, delete it from the texts.",
    ),
    "label_error": (
        "A model that was not trained on these texts is confident of another label: the label or the model is wrong.",
        "Read the texts in this order and correct wrong labels; the report lists all of them.",
    ),
    "rows_in_text": (
        "Unbalanced quotation marks seem to have merged several rows into one text.",
        "Compare the number of rows with the file; write a quotation mark inside a quoted field twice.",
    ),
    "empty_text": (
        "The model reads nothing, and learns or is scored on the label alone.",
        "Fill in these texts, delete the rows, or pass --drop-empty, which leaves them out.",
    ),
    "control_character": (
        "Texts that were decoded or cut wrongly reach the model garbled.",
        "Write the file again as UTF-8 from its source, or delete these characters.",
    ),
    "mojibake": (
        "The texts were UTF-8 and have been decoded as Latin-1 or Windows-1252: an encoder knows no such words.",
        "Decode the source as UTF-8 and write the file again; text.encode('cp1252').decode() repairs most texts.",
    ),
    "other_script": (
        "They are probably in another language, which the encoder may not know.",
        "Use a multilingual encoder, or delete the rows.",
    ),
    "other_language": (
        "The encoder may not know the language, and a few labelled texts teach little about it.",
        "Read some of the rows; use a multilingual encoder, or delete the rows.",
    ),
    "duplicate": (
        "These texts weigh more than others, in training or in the scores.",
        "Pass --deduplicate, which drops them from train, or delete the rows, unless the texts are as frequent where "
        "the model will be used.",
    ),
    "near_duplicate": (
        "These texts weigh more than others in training, and a held-out split may contain near copies of train.",
        "Read some of the pairs and delete one of each if they come from one source.",
    ),
    "truncation": (
        "The model never reads the rest of a longer text.",
        "Raise --max-length if the encoder allows it, or choose with --long-text which part is read.",
    ),
    "unknown_token": (
        "The tokenizer replaces everything it does not know with one token, so that part of the text is lost.",
        "Use an encoder for the language of the texts, or replace such characters with words.",
    ),
    "special_token": (
        "The tokenizer reads them as control tokens, such as the end of a text, and not as text.",
        "Put a space into them or delete them, unless they are intended.",
    ),
    "missing_class": (
        "The scores say nothing about these classes.",
        "Add examples of them to this split, or pass one file with more examples, which is split by class.",
    ),
    "small_class": (
        "A class with a single example can hardly be learned, and cannot be scored.",
        "Add examples, or merge the class with another one.",
    ),
}
"""For each kind of finding, the worst first, what it means and what to do."""
ERRORS = ("target", "one_class", "identifier", "unknown_label")
"""The kinds of findings on data that cannot be trained on."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something in the data that a user should know, and its rows."""

    kind: str
    """One of EXPLANATIONS."""
    message: str
    count: int
    rows: tuple[int, ...]
    """The first five rows; none for findings without rows, such as missing_class."""
    severity: Severity = "warning"
    """error: the data cannot be trained on. warning: it can."""
    meaning: str = ""
    action: str = ""
    """What to do about it."""
    like: tuple[int, ...] = ()
    """For near duplicates: for each of `rows`, the row that it is nearly a copy of."""


def finding(
    kind: str, message: str, *, rows: Sequence[int] = (), count: int | None = None, like: Sequence[int] = ()
) -> Finding:
    """Return a finding with the explanation of its kind; without a `count`, it is the number of rows."""
    first, other = tuple(rows[:MOST_ROWS]), tuple(like[:MOST_ROWS])
    severity: Severity = "error" if kind in ERRORS else "warning"
    return Finding(kind, message, len(rows) if count is None else count, first, severity, *EXPLANATIONS[kind], other)


def target_finding(problem: Problem) -> Finding:
    """Return the finding on targets that cannot be trained on."""
    return replace(finding("target", problem.found, count=1), action=problem.way_out)


def finding_on(kind: str, what: str, examples: Examples, is_meant: Iterable[object]) -> Finding | None:
    """Return a finding on the examples for which `is_meant`, one value per example, is true; None if there are none."""
    rows = list(itertools.compress(examples.rows, is_meant))
    return finding(kind, f"{examples.source}: {what}: {describe_rows(rows)}", rows=rows) if rows else None
