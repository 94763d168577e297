"""Several processes learn what one learns, score what one scores, and stop together."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.invariants import worker
from tests.processes import launch

pytestmark = pytest.mark.multiprocess

WORKER = worker.__file__


@pytest.fixture(scope="module")
def found(tiny_bert, tmp_path_factory):
    """Return the folder with what one process, two and four processes have found."""
    output = tmp_path_factory.mktemp("processes")
    jobs = "gradients,evaluation,training,tasks,errors"
    codes, said = launch([WORKER, f"{jobs},interrupted", tiny_bert, output])
    assert codes == [0, 0], "\n".join(said)
    codes, said = launch([WORKER, "gradients", tiny_bert, output], processes=4)
    assert codes == [0, 0, 0, 0], "\n".join(said)
    worker.main([*jobs.split(","), "resumed"], tiny_bert, output)
    return output


@pytest.mark.parametrize(("kind", "count"), worker.GRADIENTS)
@pytest.mark.parametrize("processes", [2, 4])
def test_gradient_is_that_of_one_process(processes, kind, count, found):
    name = f"gradients-{kind}-{count}"
    one = load_file(found / f"{name}-0-of-1.safetensors")
    largest = max(gradient.abs().max() for gradient in one.values())
    assert largest > 1e-3
    for rank in range(processes):
        several = load_file(found / f"{name}-{rank}-of-{processes}.safetensors")
        assert one.keys() == several.keys()
        for parameter, gradient in one.items():
            assert gradient.dtype == torch.float64
            assert (several[parameter] - gradient).abs().max() <= 1e-10 * largest, parameter
    losses = [
        json.loads((found / f"{name}-{n}" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
        for n in (1, processes)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)


@pytest.mark.parametrize("freeze", ["nothing", "encoder"])
def test_trained_weights_are_those_of_one_process(found, freeze):
    one = load_file(found / f"training-{freeze}-0-of-1.safetensors")
    for rank in (0, 1):
        two = load_file(found / f"training-{freeze}-{rank}-of-2.safetensors")
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize("task", ["tags", "labels", "scores", "ordinal", "pairs"])
def test_each_task_is_learned_and_scored_as_by_one_process(task, found):
    one = load_file(found / f"task-{task}-0-of-1.safetensors")
    scores = json.loads((found / f"task-{task}-0-of-1.json").read_text())
    for rank in (0, 1):
        two = load_file(found / f"task-{task}-{rank}-of-2.safetensors")
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-9)
        again = json.loads((found / f"task-{task}-{rank}-of-2.json").read_text())
        assert again.keys() == scores.keys()
        for metric, score in scores.items():
            if metric != "per_class":
                assert score["n"] == 11
                assert again[metric] == pytest.approx(score, rel=1e-7), metric


@pytest.mark.parametrize("freeze", ["nothing", "encoder"])
def test_scores_count_each_example_once(found, freeze):
    one, *two = (
        json.loads((found / f"training-{freeze}-{suffix}.json").read_text())
        for suffix in ("0-of-1", "0-of-2", "1-of-2")
    )
    assert one["accuracy"]["n"] == 11
    assert two[0] == two[1]
    for metric, score in one.items():
        if metric != "per_class":
            assert two[0][metric] == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize("freeze", ["nothing", "encoder"])
def test_evaluation_counts_each_of_many_examples_once(freeze, found):
    one, *two = (
        json.loads((found / f"evaluation-{freeze}-{suffix}.json").read_text())
        for suffix in ("0-of-1", "0-of-2", "1-of-2")
    )
    assert one["accuracy"]["n"] == two[0]["accuracy"]["n"] == 1003
    assert two[0] == two[1]
    for metric, score in one.items():
        if metric != "per_class":
            assert two[0][metric] == pytest.approx(score, rel=1e-9)
    tables = [
        list(csv.DictReader((found / f"evaluation-{freeze}-{n}/predictions.csv").read_text().splitlines()))
        for n in (1, 2)
    ]
    assert [int(row["row"]) for row in tables[1]] == list(range(1, 1004))
    assert [row["predicted"] for row in tables[0]] == [row["predicted"] for row in tables[1]]


@pytest.mark.parametrize("freeze", ["nothing", "encoder"])
def test_run_folders_are_those_of_one_process(found, freeze):
    one, two = (found / f"run-{freeze}-{n}" for n in (1, 2))
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one, two)]
    assert names[0] == names[1]
    steps = [
        [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)
    ]
    assert steps[0] == steps[1]
    tables = [list(csv.reader((run / "predictions.csv").read_text().splitlines())) for run in (one, two)]
    assert [row[:3] for row in tables[0]] == [row[:3] for row in tables[1]]
    assert len(tables[1]) == 12


def test_one_process_resumes_what_two_have_begun(found):
    one, resumed = (load_file(found / f"{name}-0-of-1.safetensors") for name in ("training-nothing", "resumed"))
    for name, weight in one.items():
        torch.testing.assert_close(resumed[name], weight, rtol=0, atol=1e-9)


def test_what_stops_one_process_stops_all(found):
    main, other = (json.loads((found / f"errors-{rank}-of-2.json").read_text()) for rank in (0, 1))
    kinds = {"claimed": "ConfigError", "file": "ConfigError", "below a file": "ResourceError", "nan": "NonFiniteError"}
    for name, kind in kinds.items():
        assert main["errors"][name][0] == kind
    assert other["errors"] == main["errors"]
    assert "already holds a run" in main["errors"]["claimed"][1]
    assert "diverged: loss nan" in main["errors"]["nan"][1]
    assert main["resumed"] == other["resumed"] == [False, True]


def test_no_process_waits_for_one_that_is_gone(tiny_bert, tmp_path):
    codes, said = launch([WORKER, "crash", tiny_bert, tmp_path])
    assert 0 not in codes
    assert "RuntimeError: one process fails" in said[1]
