"""Read `predictions.csv` of a run, of any kind of task, and score it without the model."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlptl.config import TaskKind
from nlptl.data.numbers import numbers
from nlptl.data.targets import label_sets
from nlptl.errors import UntrustedFileError
from nlptl.evaluation import metrics, multi_label, ordinal, regression, spans
from nlptl.evaluation.metrics import Scorer

_PROBABILITY, _PREDICTED = "probability_", "predicted"


@dataclass(frozen=True)
class Predictions:
    """The test examples of a run: row numbers, labels in the normal form of the task, and columns of predictions."""

    kind: TaskKind
    rows: list[str]
    labels: list[str]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels with a probability, or the predicted outputs."""
        prefix = _PROBABILITY if self.kind != "regression" else f"{_PREDICTED}_"
        return tuple(name.removeprefix(prefix) for name in self.columns if name.startswith(prefix))

    def is_correct(self) -> np.ndarray | None:
        """Return whether each prediction is right, bool [rows]; None for regression and tags."""
        if self.kind in ("regression", "tokens"):
            return None
        labels, predicted = (label_sets(cells, self.kind) for cells in (self.labels, self.columns[_PREDICTED]))
        return np.array([label == other for label, other in zip(labels, predicted, strict=True)])

    def is_collapsed(self) -> bool:
        """Return whether all predictions are the same although the labels differ, as `Task.doubts` does."""
        if self.kind == "regression":
            targets, values = _numbers(self, self.names)
            return bool((values.std(axis=0) < 0.01 * targets.std(axis=0)).any())
        predicted = self.columns[_PREDICTED]
        if self.kind == "tokens":
            return all(set(tags.split(" ")) == {"O"} for tags in predicted)
        return len(set(label_sets(predicted, self.kind))) == 1 < len(set(label_sets(self.labels, self.kind)))


def read_predictions(path: Path, kind: TaskKind) -> Predictions:
    """Read the `predictions.csv` of a run.

    Raises:
        UntrustedFileError: If the file is damaged, or is from another kind of task.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        columns = dict(zip(header, map(list, zip(*lines, strict=True)), strict=True))
        found = Predictions(kind, columns.pop("row"), columns.pop("label"), columns)
        with np.errstate(all="ignore"):
            scorer(found).points()
        return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise UntrustedFileError(
            f"Expected the predictions of a {kind} run in {path}, cannot read them: {error!r}. Restore the file from a "
            "copy, or train again."
        ) from error


def scorer(*tables: Predictions) -> Scorer:
    """Return the scorer of the rows of all tables, one table after the other.

    Raises:
        UntrustedFileError: If the tables of an ordinal task order their labels differently.
    """
    kind, names = tables[0].kind, tuple(dict.fromkeys(name for table in tables for name in table.names))
    if kind == "regression":
        targets, values = map(np.concatenate, zip(*(_numbers(table, names) for table in tables), strict=True))
        return regression.scorer(targets, values, names=names or ("",))
    labels = [label for table in tables for label in table.labels]
    predicted = [cell for table in tables for cell in table.columns[_PREDICTED]]
    if kind == "tokens":
        return spans.scorer(*([tags.split(" ") for tags in cells] for cells in (labels, predicted)))
    probabilities = _probabilities(tables, names)
    if kind == "multi_label":
        true_sets, predicted_sets = (_indicators(cells, names) for cells in (labels, predicted))
        return multi_label.scorer(true_sets, probabilities, predicted=predicted_sets, names=names)
    if kind == "ordinal" and any(table.names != names for table in tables):
        orders = "; ".join(", ".join(table.names) for table in tables)
        raise UntrustedFileError(
            f"Expected the labels of an ordinal task in one order, found {orders}. Compare runs with the same "
            "--label-order."
        )
    id_of = {name: i for i, name in enumerate(names)}
    ids, predictions = (np.array([id_of[name] for name in cells], dtype=np.int64) for cells in (labels, predicted))
    of_kind = ordinal.scorer if kind == "ordinal" else metrics.scorer
    return of_kind(ids, probabilities, names=names, predictions=predictions)


def _indicators(cells: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return which of the labels each cell holds, bool [rows, names]."""
    id_of = {name: i for i, name in enumerate(names)}
    found = np.zeros((len(cells), len(names)), dtype=bool)
    for row, labels in enumerate(label_sets(cells, "multi_label")):
        found[row, [id_of[label] for label in labels]] = True
    return found


def _probabilities(tables: Sequence[Predictions], names: tuple[str, ...]) -> np.ndarray:
    """Return the probabilities [rows, names]; 0 for labels that a table does not have."""
    found = np.zeros((sum(map(len, tables)), len(names)))
    start = 0
    for table in tables:
        for i, name in enumerate(names):
            if f"{_PROBABILITY}{name}" in table.columns:
                found[start : start + len(table), i] = table.columns[f"{_PROBABILITY}{name}"]
        start += len(table)
    return found


def _numbers(table: Predictions, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and predicted numbers, floats [rows, outputs]."""
    columns = [f"{_PREDICTED}_{name}" for name in names] or [_PREDICTED]
    targets = [numbers(label) for label in table.labels]
    wanted = names or tuple(targets[0])
    return (
        np.array([[target[name] for name in wanted] for target in targets], dtype=np.float64),
        np.array([table.columns[name] for name in columns], dtype=np.float64).T,
    )
