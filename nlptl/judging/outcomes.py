"""Outcomes of the examples of a split: label, prediction, loss, contribution to the score, by kind of task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nlptl.data.sources import Examples
from nlptl.data.targets import label_sets
from nlptl.evaluation.errors import (
    MOST_CLASSES,
    NONE,
    Pairs,
    confused_labels,
    confused_sets,
    confused_spans,
    count_confusions,
)
from nlptl.evaluation.metrics import log_loss
from nlptl.evaluation.multi_label import cell_losses
from nlptl.evaluation.slices import RowScores
from nlptl.evaluation.spans import find_spans
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The outcomes of the examples of a split, in order."""

    scores: RowScores
    labels: list[str]
    """The labels of each example in readable form."""
    predicted: list[str]
    is_wrong: np.ndarray  # bool [examples]
    losses: np.ndarray  # float64 [examples]
    confidences: np.ndarray  # float64 [examples]: probability of the prediction, or of its worst part; NaN: none
    label_sets: list[tuple[str, ...]] = field(default_factory=list)
    """The labels of each example that define slices."""
    confusion: dict[str, Any] | None = None
    confused: Pairs = field(default_factory=list)
    decisive: np.ndarray  # int64 [examples]: index of the label or output that attributions explain


def outcomes_of(task: Task, examples: Examples, outputs: np.ndarray, *, texts_shown: bool) -> Outcomes:
    """Return the outcomes of examples from the outputs of the task; `texts_shown` allows quotes of the texts."""
    if isinstance(task, SingleLabel):
        return _of_label(task, examples, outputs)
    if task.kind == "multi_label":
        return _of_label_set(task, examples, outputs)
    if task.kind == "regression":
        return _of_numbers(task, examples, outputs)
    return _of_tags(task, examples, outputs, texts_shown)


def _of_label(task: SingleLabel, examples: Examples, outputs: np.ndarray) -> Outcomes:
    targets, chosen, names = task.targets(examples), task.chosen(outputs), task.names
    confusion = None
    if len(names) <= MOST_CLASSES:
        counts = count_confusions(targets, chosen, num_classes=len(names))
        confusion = {"names": list(names), "counts": counts.tolist()}
    if task.kind == "ordinal":
        scores = RowScores("mae", np.abs(chosen - targets).astype(np.float64), np.ones(len(targets)), True)
    else:
        scores = RowScores("accuracy", (chosen == targets).astype(np.float64), np.ones(len(targets)))
    return Outcomes(
        scores=scores,
        labels=list(examples.labels),
        predicted=[names[i] for i in chosen],
        is_wrong=chosen != targets,
        losses=log_loss(targets, outputs),
        confidences=outputs[np.arange(len(outputs)), chosen],
        label_sets=[(label,) for label in examples.labels],
        confusion=confusion,
        confused=confused_labels(targets, chosen, names),
        decisive=chosen,
    )


def _of_label_set(task: Task, examples: Examples, outputs: np.ndarray) -> Outcomes:
    targets = task.targets(examples)
    given = task.columns(outputs, examples.texts, examples.texts, name="predicted")["predicted"]
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
    return Outcomes(
        scores=RowScores("samples_f1", f1, np.ones(len(f1))),
        labels=[_listed(flags, task.names) for flags in true],
        predicted=[_listed(flags, task.names) for flags in predicted],
        is_wrong=wrong.any(axis=1),
        losses=cell_losses(targets, outputs).sum(axis=1),
        confidences=np.where(wrong.any(axis=1), sure.max(axis=1), np.nan),
        label_sets=label_sets(examples.labels, task.kind),
        confused=confused_sets(true, predicted, task.names),
        decisive=np.where(wrong.any(axis=1), sure.argmax(axis=1), outputs.argmax(axis=1)),
    )


def _of_numbers(task: Task, examples: Examples, outputs: np.ndarray) -> Outcomes:
    targets = task.targets(examples)
    errors = np.abs(outputs - targets).mean(axis=1)
    return Outcomes(
        scores=RowScores("mae", errors, np.ones(len(errors)), True),
        labels=[_numbers(row, task.names) for row in targets],
        predicted=[_numbers(row, task.names) for row in outputs],
        is_wrong=errors > 0,
        losses=errors,
        confidences=np.full(len(errors), np.nan),
        decisive=np.zeros(len(errors), dtype=np.int64),
    )


def _of_tags(task: Task, examples: Examples, outputs: np.ndarray, texts_shown: bool) -> Outcomes:
    texts, targets = examples.texts, task.targets(examples)
    true, predicted = (
        [tags.split(" ") for tags in cells]
        for cells in (examples.labels, task.columns(outputs, texts, texts, name="predicted")["predicted"])
    )
    spans = [(set(find_spans(one)), set(find_spans(two))) for one, two in zip(true, predicted, strict=True)]
    losses, confidences = [], []
    of_words = np.split(outputs, np.cumsum([len(tags) for tags in true])[:-1])
    for one, two, ids, probabilities in zip(true, predicted, targets, of_words, strict=True):
        # Words that the model did not read have equal probabilities of all tags but O, and no confidence.
        is_read = np.ptp(probabilities[:, 1:], axis=1) > 0
        wrong = is_read & np.array([a != b for a, b in zip(one, two, strict=True)])
        losses.append(log_loss(ids, probabilities)[is_read].sum())
        confidences.append(probabilities[wrong].max() if wrong.any() else np.nan)
    words = [text.split(" ") for text in texts]
    return Outcomes(
        scores=RowScores(
            "span_f1",
            np.array([2.0 * len(one & two) for one, two in spans]),
            np.array([float(len(one) + len(two)) for one, two in spans]),
        ),
        labels=[_spans(tags, each, texts_shown) for tags, each in zip(true, words, strict=True)],
        predicted=[_spans(tags, each, texts_shown) for tags, each in zip(predicted, words, strict=True)],
        is_wrong=np.array([one != two for one, two in zip(true, predicted, strict=True)]),
        losses=np.array(losses),
        confidences=np.array(confidences),
        label_sets=[tuple(sorted({span[0] for span in one})) for one, _ in spans],
        confused=confused_spans(true, predicted),
        decisive=np.full(len(true), -1),
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
