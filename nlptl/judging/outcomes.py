"""Outcomes of the examples of a split: label, prediction, loss, contribution to the score, by kind of task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlptl.data.targets import label_sets
from nlptl.evaluation.errors import (
    MOST_CLASSES,
    NONE,
    Pairs,
    binary_losses,
    confused_labels,
    confused_sets,
    confused_spans,
    count_confusions,
)
from nlptl.evaluation.metrics import log_loss
from nlptl.evaluation.slices import RowScores
from nlptl.evaluation.spans import find_spans
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of the examples of a split, in order."""

    scores: RowScores
    labels: list[str]
    """The labels of each example in readable form."""
    predicted: list[str]
    is_wrong: np.ndarray  # bool [examples]
    losses: np.ndarray  # float64 [examples]
    confidences: np.ndarray  # float64 [examples]: probability of the prediction, or of its worst part; NaN: none
    label_sets: list[tuple[str, ...]]
    """The labels of each example that define slices."""
    confusion: dict[str, Any] | None
    confused: Pairs
    decisive: np.ndarray  # int64 [examples]: index of the label or output that attributions explain


def outcomes_of(
    task: Task,
    labels: Sequence[str],
    targets: np.ndarray,
    outputs: np.ndarray,
    texts: Sequence[str],
    *,
    texts_shown: bool,
) -> Outcomes:
    """Return the outcomes of examples.

    Args:
        task: The task.
        labels: Their `Examples.labels`.
        targets: The targets of the task for these labels.
        outputs: Outputs of the task: probabilities or numbers.
        texts: The texts.
        texts_shown: Whether the outcomes may quote the texts.
    """
    if isinstance(task, SingleLabel):
        return _of_label(task, labels, targets, outputs)
    if task.kind == "multi_label":
        return _of_label_set(task, labels, targets, outputs, texts)
    if task.kind == "regression":
        return _of_numbers(task, targets, outputs)
    return _of_tags(task, labels, targets, outputs, texts, texts_shown)


def plain_number(value: float) -> float | None:
    """Return a number for strict JSON: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def plain_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Return `row` with None in place of NaN and infinity."""
    return {key: plain_number(value) if isinstance(value, float) else value for key, value in row.items()}


def _of_label(task: SingleLabel, labels: Sequence[str], targets: np.ndarray, outputs: np.ndarray) -> Outcomes:
    chosen, names = task.chosen(outputs), task.names
    counts = count_confusions(targets, chosen, num_classes=len(names)).tolist() if len(names) <= MOST_CLASSES else None
    if task.kind == "ordinal":
        scores = RowScores("mae", np.abs(chosen - targets).astype(np.float64), np.ones(len(targets)), True)
    else:
        scores = RowScores("accuracy", (chosen == targets).astype(np.float64), np.ones(len(targets)))
    return Outcomes(
        scores,
        list(labels),
        [names[i] for i in chosen],
        chosen != targets,
        log_loss(targets, outputs),
        outputs[np.arange(len(outputs)), chosen],
        [(label,) for label in labels],
        None if counts is None else {"names": list(names), "counts": counts},
        confused_labels(targets, chosen, names),
        chosen,
    )


def _of_label_set(
    task: Task, labels: Sequence[str], targets: np.ndarray, outputs: np.ndarray, texts: Sequence[str]
) -> Outcomes:
    given = task.columns(outputs, texts, texts, name="predicted")["predicted"]
    id_of = {name: i for i, name in enumerate(task.names)}
    true, predicted = targets == 1, np.zeros(targets.shape, dtype=bool)
    for i, names in enumerate(given):
        predicted[i, [id_of[name] for name in names]] = True
    shared, all_of = (true & predicted).sum(axis=1), true.sum(axis=1) + predicted.sum(axis=1)
    # As in samples_f1, a text with neither true nor predicted labels has 0.
    f1 = 2 * shared / np.maximum(all_of, 1)
    wrong = true != predicted
    # The confidence of the surest wrong decision.
    sure = np.where(wrong, np.where(predicted, outputs, 1 - outputs), -np.inf)
    confidences = np.where(wrong.any(axis=1), sure.max(axis=1), np.nan)
    return Outcomes(
        RowScores("samples_f1", f1, np.ones(len(f1))),
        [_listed(flags, task.names) for flags in true],
        [_listed(flags, task.names) for flags in predicted],
        wrong.any(axis=1),
        binary_losses(targets, outputs),
        confidences,
        label_sets(labels, task.kind),
        None,
        confused_sets(true, predicted, task.names),
        np.where(wrong.any(axis=1), sure.argmax(axis=1), outputs.argmax(axis=1)),
    )


def _of_numbers(task: Task, targets: np.ndarray, outputs: np.ndarray) -> Outcomes:
    errors = np.abs(outputs - targets).mean(axis=1)
    return Outcomes(
        RowScores("mae", errors, np.ones(len(errors)), True),
        [_numbers(row, task.names) for row in targets],
        [_numbers(row, task.names) for row in outputs],
        errors > 0,
        errors,
        np.full(len(errors), np.nan),
        [],
        None,
        [],
        np.zeros(len(errors), dtype=np.int64),
    )


def _of_tags(
    task: Task,
    labels: Sequence[str],
    targets: np.ndarray,
    outputs: np.ndarray,
    texts: Sequence[str],
    texts_shown: bool,
) -> Outcomes:
    true = [tags.split(" ") for tags in labels]
    predicted = [tags.split(" ") for tags in task.columns(outputs, texts, texts, name="predicted")["predicted"]]
    spans = [(set(find_spans(one)), set(find_spans(two))) for one, two in zip(true, predicted, strict=True)]
    parts = np.array([2.0 * len(one & two) for one, two in spans])
    wholes = np.array([float(len(one) + len(two)) for one, two in spans])
    of_words = np.split(outputs, np.cumsum([len(tags) for tags in true])[:-1])
    # Words that the model did not read have equal probabilities of all tags but O, and no confidence.
    is_read = [np.ptp(each[:, 1:], axis=1) > 0 for each in of_words]
    wrong_words = [
        np.array([a != b for a, b in zip(one, two, strict=True)]) for one, two in zip(true, predicted, strict=True)
    ]
    sure = [
        each.max(axis=1)[wrong & read].max(initial=-1)
        for each, wrong, read in zip(of_words, wrong_words, is_read, strict=True)
    ]
    losses = [log_loss(ids, each)[read].sum() for ids, each, read in zip(targets, of_words, is_read, strict=True)]
    words = [text.split(" ") for text in texts]
    return Outcomes(
        RowScores("span_f1", parts, wholes),
        [_spans(tags, each, texts_shown) for tags, each in zip(true, words, strict=True)],
        [_spans(tags, each, texts_shown) for tags, each in zip(predicted, words, strict=True)],
        np.array([wrong.any() for wrong in wrong_words]),
        np.array(losses),
        np.where(np.array(sure) < 0, np.nan, sure),
        [tuple(sorted({span[0] for span in one})) for one, _ in spans],
        None,
        confused_spans(true, predicted),
        np.full(len(true), -1),
    )


def _listed(flags: np.ndarray, names: Sequence[str]) -> str:
    return ", ".join(names[i] for i in np.flatnonzero(flags).tolist()) or NONE


def _numbers(row: np.ndarray, names: Sequence[str]) -> str:
    if len(row) == 1:
        return f"{row[0]:.4g}"
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, row, strict=True))


def _spans(tags: Sequence[str], words: Sequence[str], texts_shown: bool) -> str:
    """Return the spans of a text with their words, or with word numbers if texts may not be shown."""
    found = []
    for name, first, end in find_spans(tags):
        place = f"word {first + 1}" if end == first + 1 else f"words {first + 1} to {end}"
        found.append(f"{name}: {' '.join(words[first:end]) if texts_shown else place}")
    return "; ".join(found) or NONE
