"""The targets of a data set, by kind of task: as strings in one normal form, whatever the source.

single_label and ordinal: the name of a class. multi_label: a JSON list of names in order. regression: a number, or a
JSON object of numbers by column. tokens: a tag for each word, with a blank between them, as there is between the words.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nlptl.config import TaskKind
from nlptl.data.columns import check_texts, plain, shorten
from nlptl.data.label_columns import ClassCollector, Collector, LabelColumns, Problem, RowCollector
from nlptl.data.label_lists import labels_in, list_collector, rarest_labels, set_problem
from nlptl.data.numbers import read_numbers, score_problem, tenths
from nlptl.data.tags import have_spans, tag_collector, tag_problem
from nlptl.errors import ConfigError, DataError
from nlptl.values import describe


def target_collector(task: TaskKind, columns: LabelColumns) -> Collector:
    """Return a collector of the targets of a kind of task.

    Raises:
        ConfigError: If there is no such kind.
    """
    if task not in _KINDS:
        raise ConfigError(f"Expected another task: it must be {describe(TaskKind)}, found {task!r}.")
    return _KINDS[task].collector(columns)


def label_sets(targets: Sequence[str], task: TaskKind) -> list[tuple[str, ...]]:
    """Return the different labels of each text: one, several or none; for regression none."""
    labels_of = functools.cache(_KINDS[task].labels_of)
    return [labels_of(target) for target in targets]


def strata(targets: Sequence[str], task: TaskKind) -> list[str]:
    """Return the stratum of each text, by which every split gets its share of all kinds of texts.

    That is its label; of several labels, the rarest; of a score, the tenth of all scores that it is in; of tags,
    whether there are any but O.
    """
    return _KINDS[task].strata(targets)


def target_problem(targets: Sequence[str], task: TaskKind, *, where: str, is_train: bool = True) -> Problem | None:
    """Return why a model cannot be trained on these targets (unless `is_train`: scored), or None if it can."""
    return _KINDS[task].problem(targets, where, is_train)


def check_targets(targets: Sequence[str], task: TaskKind, *, where: str) -> None:
    """Refuse targets that a model cannot be trained on.

    Raises:
        DataError: If the targets are such.
    """
    if problem := target_problem(targets, task, where=where):
        raise DataError(f"{problem.found}. {problem.way_out}")


def order_problem(labels: Iterable[str], order: Sequence[str], *, where: str) -> Problem | None:
    """Return the problem with an order of labels, or None; without an order, labels must be numbers."""
    names = sorted({*labels})
    shown = ", ".join(names[:10])
    if order:
        missing, repeated = sorted({*names} - {*order}), sorted({name for name in order if order.count(name) > 1})
        found = f"{', '.join(missing)} left out" if missing else f"{', '.join(repeated)} twice"
        expected = f"Expected every label of {where} once in --label-order, found {found}"
        return Problem(expected, f"Labels: {shown}.") if missing or repeated else None
    ranks = {_rank_of(name) for name in names}
    if None not in ranks and len(ranks) == len(names):
        return None
    return Problem(
        f"Expected labels in an order: different numbers, or --label-order, found {shown}",
        "Pass them as --label-order, from the lowest to the highest (Ordinal((...)) in Python).",
    )


def _rank_of(name: str) -> float | None:
    """Return the number that a label is, or None if it is a word."""
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rank(values: Sequence[object], columns: LabelColumns, row: int) -> str:
    """Return the name of an ordinal label: a number in its shortest form, or a string as it is."""
    (value,), where = values, columns.where
    rank = plain(value)
    if isinstance(rank, int | float) and not isinstance(rank, bool) and math.isfinite(rank):
        return str(int(rank)) if float(rank).is_integer() else str(rank)
    if isinstance(rank, str) and rank.strip():
        return check_texts([rank], [row], where=where)[0]
    raise DataError(
        f"Expected a label for every text in {where}, a number or a name, found {shorten(value)} (row {row}). Fill in "
        "the label or delete the row."
    )


@dataclass(frozen=True)
class _Kind:
    """How targets of a kind of task are read, their labels, their strata, and what makes them unfit for training."""

    collector: Callable[[LabelColumns], Collector]
    labels_of: Callable[[str], tuple[str, ...]] = lambda target: (target,)
    strata: Callable[[Sequence[str]], list[str]] = list
    problem: Callable[[Sequence[str], str, bool], Problem | None] = lambda *_: None


_KINDS: dict[TaskKind, _Kind] = {
    "single_label": _Kind(ClassCollector),
    "ordinal": _Kind(lambda columns: RowCollector(_rank, columns)),
    "multi_label": _Kind(list_collector, labels_in, rarest_labels, set_problem),
    "regression": _Kind(lambda columns: RowCollector(read_numbers, columns), lambda _: (), tenths, score_problem),
    "tokens": _Kind(tag_collector, lambda target: tuple(sorted(set(target.split(" ")))), have_spans, tag_problem),
}
