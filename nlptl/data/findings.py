"""What a check of the data has found: how much, where, what it means and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nlptl.data.columns import describe_rows
from nlptl.data.sources import Examples
from nlptl.data.targets import Problem

MOST_ROWS = 5

EXPLANATIONS = {
    "target": ("No model of this task can be trained on these targets.", "Correct them, or pass another --task."),
    "one_class": (
        "There is nothing to tell apart.",
        "Pass another label column, or add examples of other classes.",
    ),
    "identifier": (
        "A class that occurs once can be neither learned nor scored.",
        "Pass the column that holds the classes as --label-column, or --task regression if these are scores.",
    ),
    "unknown_label": (
        "No model that learns from train can ever predict these labels.",
        "Rename or delete these rows, or add examples of the class to train.",
    ),
    "identifier_text": (
        "There is nothing to be learned from identifiers.",
        "Pass the column that holds the texts as --text-column.",
    ),
    "leak": (
        "The model has seen these texts, or was chosen by them: the scores are too good.",
        "Pass --deduplicate, which drops from train what is in another split, or delete the rows.",
    ),
    "near_leak": (
        "The model has nearly seen these texts, or was chosen by them: the scores are too good.",
        "Read some of the pairs, and delete one of each; texts of one source are kept in one split by --group-column.",
    ),
    "group_leak": (
        "Texts of one source are in both splits: the scores say less about texts of other sources.",
        "Pass one file with all texts, which --group-column splits by group, or move the rows.",
    ),
    "conflict": (
        "Whatever the model predicts for such a text is wrong somewhere.",
        "Decide on one label for each text and correct or delete the other rows.",
    ),
    "leaking_word": (
        "A single word gives the class away: a trace of how the data was made, such as a signature, or a real sign.",
        "Read some of the rows; delete the word from all texts if it will not be there when the model is used.",
    ),
    "label_collision": (
        "They are most likely one class in several spellings, but are learned and scored as several.",
        "Write each label in one spelling; if they differ on purpose, give them names that differ in more.",
    ),
    "label_word": (
        "The name of the class stands in its texts: the model may learn to read it off, and fail where it is missing.",
        "If the word was put there with the label, as a tag or a heading is, delete it from the texts.",
    ),
    "label_error": (
        "A model that has not seen these texts is confident of another label: the label or the model is wrong.",
        "Read the texts, from the first on, and correct the labels that are wrong; the report lists all of them.",
    ),
    "rows_in_text": (
        "Quotation marks that do not belong together seem to have taken several rows for one text.",
        "Compare the number of rows with the file; write a quotation mark inside a quoted field twice.",
    ),
    "empty_text": (
        "The model sees nothing, and learns or is scored on the label alone.",
        "Fill in these texts, delete the rows, or pass --drop-empty, which leaves them out.",
    ),
    "control_character": (
        "A text that was decoded or cut wrongly reaches the model garbled.",
        "Write the file again as UTF-8 from its source, or delete these characters.",
    ),
    "mojibake": (
        "The texts were UTF-8 and have been decoded as Latin-1 or Windows-1252: an encoder knows no such words.",
        "Decode the source as UTF-8 and write the file again; text.encode('cp1252').decode() repairs most texts.",
    ),
    "other_script": (
        "They are most likely in another language, which the encoder may not know.",
        "Take an encoder of several languages, or delete the rows.",
    ),
    "other_language": (
        "The encoder may not know that language, and the labels of few such texts teach little about it.",
        "Read some of the rows; take an encoder of several languages, or delete the rows.",
    ),
    "duplicate": (
        "These texts weigh more than others, in training or in the scores.",
        "Pass --deduplicate, which drops those of train, or delete the rows, unless the texts are that frequent where "
        "the model will be used.",
    ),
    "near_duplicate": (
        "These texts weigh more than others in training, and those of a carved-out split may be like those of train.",
        "Read some of the pairs, and delete one of each if they come from one source.",
    ),
    "truncation": (
        "Of a longer text, a part is never read.",
        "Raise --max-length if the encoder takes more, or choose the part that is read by --long-text.",
    ),
    "unknown_token": (
        "The tokenizer puts one and the same token for all it does not know: what stood there is lost.",
        "Take an encoder for the language of the texts, or write such signs as words.",
    ),
    "special_token": (
        "The tokenizer reads them as marks of its own, such as the end of a text, and not as what is written.",
        "Put a blank into them or delete them, unless they are meant as such.",
    ),
    "missing_class": (
        "The scores say nothing about these classes.",
        "Add examples of them to this split, or pass one file with more examples, which is split by class.",
    ),
    "small_class": (
        "A class with a single example can hardly be learned, and not be scored.",
        "Add examples, or merge the class with another one.",
    ),
}
"""For each kind of finding, the worst first, what it means and what to do."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something in the data that a user should know, and where it stands."""

    kind: str
    """One of EXPLANATIONS."""
    message: str
    count: int
    rows: tuple[int, ...]
    """The first five rows; none where no row is to blame, as for missing_class."""
    severity: Severity = "warning"
    """error: the data cannot be trained on. warning: it can."""
    meaning: str = ""
    action: str = ""
    """What to do about it."""
    like: tuple[int, ...] = ()
    """Of near duplicates, for each of `rows` the row that it is like."""


def finding(
    kind: str,
    message: str,
    *,
    rows: Sequence[int] = (),
    count: int | None = None,
    severity: Severity = "warning",
    like: Sequence[int] = (),
) -> Finding:
    """Return a finding with what is said about its kind.

    Args:
        kind: One of EXPLANATIONS.
        message: What was found, with the rows.
        rows: All rows that are meant.
        count: How many there are. None: as many as rows.
        severity: Whether the data can be trained on.
        like: For each of the rows, one that it is like.
    """
    first, other = tuple(rows[:MOST_ROWS]), tuple(like[:MOST_ROWS])
    return Finding(kind, message, len(rows) if count is None else count, first, severity, *EXPLANATIONS[kind], other)


def target_finding(problem: Problem) -> Finding:
    """Return the finding that targets cannot be trained on."""
    return replace(finding("target", problem.found, count=1, severity="error"), action=problem.way_out)


def finding_on(kind: str, what: str, examples: Examples, is_meant: np.ndarray) -> Finding | None:
    """Return a finding on the examples that are meant, a bool for each; None: on none."""
    rows = np.asarray(examples.rows)[is_meant].tolist()
    return finding(kind, f"{what}: {describe_rows(rows)}", rows=rows) if rows else None
