"""What a table of predictions says is what the task has said of the outputs that it was written from."""

import json

import numpy as np
import pytest

from nlptl import UntrustedFileError
from nlptl.evaluation.metrics import METRICS
from nlptl.judging.predictions import read_predictions, scorer

from .conftest import TASKS, examples_of, outputs_of


def read(folder, kind):
    return read_predictions(folder / "predictions.csv", TASKS[kind].kind)


@pytest.mark.parametrize("kind", TASKS)
def test_rows_give_the_scores_that_were_written(kind, write_run):
    folder = write_run("run", kind)
    found = scorer(read(folder, kind)).points()
    written = json.loads((folder / "scores.json").read_text())["test"]
    assert {name for name in written if name != "per_class"} == found.keys()
    assert found == pytest.approx({name: written[name]["value"] for name in found}, abs=1e-9)
    assert set(METRICS[TASKS[kind].kind]) <= found.keys()


@pytest.mark.parametrize("kind", TASKS)
def test_intervals_of_tables_together(kind, write_run):
    whole = read(write_run("run", kind), kind)
    halves = [
        type(whole)(whole.kind, whole.rows[part], whole.labels[part], {k: v[part] for k, v in whole.columns.items()})
        for part in (slice(0, 80), slice(80, None))
    ]
    scores = scorer(whole).score(resamples=200)
    assert scorer(*halves).score(resamples=200) == scores
    score = scores[METRICS[whole.kind][0]]
    assert score.low < score.value < score.high
    assert score.n == 200


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("collapsed", [False, True])
def test_what_has_collapsed_is_what_the_task_doubts(kind, collapsed, write_run):
    folder, task = write_run("run", kind), TASKS[kind]
    examples = examples_of(kind, 200)
    targets = task.targets(examples)
    outputs = outputs_of(task, targets, 0.5, 1)
    if collapsed:
        outputs = np.tile([0.9, *[0.1] * (len(task.names) - 1)], (len(outputs), 1))
    columns = task.columns(outputs, examples.texts, examples.texts, name="predicted")
    table = read(folder, kind)
    table = type(table)(table.kind, table.rows, table.labels, {**table.columns, **_cells(columns)})
    assert table.is_collapsed() == (task.doubts(targets, outputs) is not None) == collapsed


def _cells(columns):
    return {k: [json.dumps(x) if isinstance(x, list) else str(x) for x in v] for k, v in columns.items()}


def test_which_examples_are_right(write_run):
    single = read(write_run("single"), "single_label")
    expected = [label == predicted for label, predicted in zip(single.labels, single.columns["predicted"], strict=True)]
    assert single.is_correct().tolist() == expected
    several = read(write_run("several", "multi_label"), "multi_label")
    sets = [[json.loads(cell) for cell in column] for column in (several.labels, several.columns["predicted"])]
    assert several.is_correct().tolist() == [set(a) == set(b) for a, b in zip(*sets, strict=True)]
    assert 0 < several.is_correct().mean() < 1
    assert read(write_run("score", "regression"), "regression").is_correct() is None
    assert read(write_run("tags", "tokens"), "tokens").is_correct() is None


@pytest.mark.parametrize(
    "content",
    ["", "row,label\n", "row,label,predicted\n1,a\n", "a,b\n1,2\n", 'row,label,predicted\n1,no,"yes\n', "\x00"],
)
def test_damaged_tables_are_refused(content, tmp_path):
    (tmp_path / "predictions.csv").write_text(content)
    with pytest.raises(UntrustedFileError, match=r"Expected the predictions of a single_label run in .*csv, cannot"):
        read_predictions(tmp_path / "predictions.csv", "single_label")


def test_a_table_of_another_kind_is_refused(write_run):
    folder = write_run("run")
    for kind in ("regression", "multi_label"):
        with pytest.raises(UntrustedFileError, match=f"Expected the predictions of a {kind} run"):
            read_predictions(folder / "predictions.csv", kind)
