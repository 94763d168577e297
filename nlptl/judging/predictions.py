"""What the folder of a run says of its test split, read without the model: `predictions.csv` for each kind of task."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from nlptl.config import TaskKind
from nlptl.data.numbers import numbers
from nlptl.data.targets import label_sets
from nlptl.errors import UntrustedFileError
from nlptl.evaluation import metrics, multi_label, ordinal, regression, spans
from nlptl.evaluation.metrics import Bootstrap, Score, bootstrap_scores
from nlptl.evaluation.uncertainty import WeightedScores

_PROBABILITY, _PREDICTED = "probability_", "predicted"


@dataclass(frozen=True)
class Predictions:
    """The test examples of a run: where each stands, its target in the normal form of the task, what was predicted."""

    kind: TaskKind
    rows: list[str]
    labels: list[str]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that have a probability, or the scores that are predicted."""
        prefix = _PROBABILITY if self.kind != "regression" else f"{_PREDICTED}_"
        return tuple(name.removeprefix(prefix) for name in self.columns if name.startswith(prefix))

    def is_correct(self) -> np.ndarray | None:
        """Return whether each example is predicted as it is labelled, bool [rows]; None: there is no yes or no."""
        if self.kind in ("regression", "tokens"):
            return None
        pairs = zip(self._sets(self.labels), self._sets(self.columns[_PREDICTED]), strict=True)
        return np.array([label == predicted for label, predicted in pairs])

    def is_collapsed(self) -> bool:
        """Return whether all predictions are the same while the labels are not, as `Task.doubts` says."""
        if self.kind == "regression":
            targets, values = _numbers(self, self.names)
            return bool((values.std(axis=0) < 0.01 * targets.std(axis=0)).any())
        predicted = self.columns[_PREDICTED]
        if self.kind == "tokens":
            return all(set(tags.split(" ")) == {"O"} for tags in predicted)
        return len(set(self._sets(predicted))) == 1 < len(set(self._sets(self.labels)))

    def _sets(self, cells: Sequence[str]) -> list[tuple[str, ...]]:
        return label_sets(cells, self.kind)


def read_predictions(path: Path, kind: TaskKind) -> Predictions:
    """Read the `predictions.csv` of a run.

    Raises:
        UntrustedFileError: If it is damaged, or of another kind of task.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        columns = dict(zip(header, map(list, zip(*lines, strict=True)), strict=True))
        found = Predictions(kind, columns.pop("row"), columns.pop("label"), columns)
        with np.errstate(all="ignore"):
            weighted_scores(found)(np.ones((1, len(found))))
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise UntrustedFileError(
            f"Expected the predictions of a {kind} run in {path}, cannot read them: {error!r}. Restore the file from a "
            "copy, or train again."
        ) from error


def weighted_scores(*tables: Predictions) -> WeightedScores:
    """Return what scores the rows of one table, or of several one after the other, by how often each counts.

    Raises:
        UntrustedFileError: If tables of an ordinal task have their labels in another order.
    """
    return _BY_KIND[tables[0].kind](tables, _names_of_all(tables))


def score_tables(*tables: Predictions, **options: Unpack[Bootstrap]) -> dict[str, Score]:
    """Return the scores of the rows of all tables together, with percentile bootstrap intervals over the rows."""
    return bootstrap_scores(weighted_scores(*tables), sum(map(len, tables)), **options)


def _names_of_all(tables: Sequence[Predictions]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for table in tables for name in table.names))
    if tables[0].kind == "ordinal" and any(table.names != names for table in tables):
        orders = "; ".join(", ".join(table.names) for table in tables)
        raise UntrustedFileError(
            f"Expected the labels of an ordinal task in one order, found {orders}. Compare runs with the same "
            "--label-order."
        )
    return names


def _classes(module: Any) -> Callable[[Sequence[Predictions], tuple[str, ...]], WeightedScores]:
    def of(tables: Sequence[Predictions], names: tuple[str, ...]) -> WeightedScores:
        id_of = {name: i for i, name in enumerate(names)}
        labels, predicted = (
            np.array([id_of[name] for table in tables for name in cells(table)], dtype=np.int64)
            for cells in (lambda table: table.labels, lambda table: table.columns[_PREDICTED])
        )
        losses = metrics.log_loss(labels, _probabilities(tables, names))
        scores: WeightedScores = module.weighted_scores(labels, predicted, losses, num_classes=len(names))
        return scores

    return of


def _label_sets(tables: Sequence[Predictions], names: tuple[str, ...]) -> WeightedScores:
    id_of = {name: i for i, name in enumerate(names)}

    def indicators(cells: list[str]) -> np.ndarray:
        found = np.zeros((len(cells), len(names)), dtype=bool)
        for row, labels in enumerate(label_sets(cells, "multi_label")):
            found[row, [id_of[label] for label in labels]] = True
        return found

    targets = indicators([label for table in tables for label in table.labels])
    predicted = indicators([cell for table in tables for cell in table.columns[_PREDICTED]])
    return multi_label.weighted_scores(targets, predicted, _probabilities(tables, names))


def _scores(tables: Sequence[Predictions], names: tuple[str, ...]) -> WeightedScores:
    targets, values = map(np.concatenate, zip(*(_numbers(table, names) for table in tables), strict=True))
    return regression.weighted_scores(targets, values)


def _tags(tables: Sequence[Predictions], names: tuple[str, ...]) -> WeightedScores:
    true = [tags.split(" ") for table in tables for tags in table.labels]
    predicted = [tags.split(" ") for table in tables for tags in table.columns[_PREDICTED]]
    return spans.weighted_scores(true, predicted)


_BY_KIND: dict[TaskKind, Callable[[Sequence[Predictions], tuple[str, ...]], WeightedScores]] = {
    "single_label": _classes(metrics),
    "ordinal": _classes(ordinal),
    "multi_label": _label_sets,
    "regression": _scores,
    "tokens": _tags,
}


def _probabilities(tables: Sequence[Predictions], names: tuple[str, ...]) -> np.ndarray:
    """Return the probabilities [rows, names]; 0 for a label that a table does not have."""
    found = np.zeros((sum(map(len, tables)), len(names)))
    start = 0
    for table in tables:
        for i, name in enumerate(names):
            if f"{_PROBABILITY}{name}" in table.columns:
                found[start : start + len(table), i] = table.columns[f"{_PROBABILITY}{name}"]
        start += len(table)
    return found


def _numbers(table: Predictions, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and predicted scores, floats [rows, scores]."""
    columns = [f"{_PREDICTED}_{name}" for name in names] or [_PREDICTED]
    targets = [numbers(label) for label in table.labels]
    wanted = names or tuple(targets[0])
    return (
        np.array([[target[name] for name in wanted] for target in targets], dtype=np.float64),
        np.array([table.columns[name] for name in columns], dtype=np.float64).T,
    )
