"""`nlptl compare`: which run is better, what cannot be told, and what cannot be compared."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from nlptl import ConfigError, UntrustedFileError, cli
from nlptl.evaluation.comparison import mcnemar, smallest_accuracy_difference
from nlptl.judging.compare import CompareConfig, compare
from nlptl.judging.runs import differing_settings, read_runs

from .conftest import TASKS


def compared(caplog, *folders, **settings):
    """Return the comparisons and all that was logged."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    found = compare(CompareConfig(runs=folders, resamples=settings.pop("resamples", 500), **settings))
    return found, "\n".join(caplog.messages)


@pytest.mark.parametrize("kind", TASKS)
def test_the_better_run_of_each_kind_of_task_is_named(kind, write_run, caplog):
    worse, better = write_run("worse", kind, noise=1.5), write_run("better", kind, noise=0.3, seed=2)
    (found,), out = compared(caplog, worse, better)
    assert (found.first, found.second) == ("better", "worse")
    assert found.is_significant
    assert found.p_randomization == found.p_corrected == 1 / 501
    assert found.difference.low > 0
    assert "\nbetter is better than worse: " in out
    assert ", p = 0.002)." in out
    assert (found.p_mcnemar is not None) == (kind in ("single_label", "ordinal", "multi_label"))
    assert ("(McNemar)" in out) == (found.p_mcnemar is not None)


@pytest.mark.parametrize("kind", TASKS)
def test_runs_that_cannot_be_told_apart(kind, write_run, caplog):
    runs = [write_run(name, kind, noise=0.8, seed=seed) for name, seed in (("a", 1), ("b", 7))]
    (found,), out = compared(caplog, *runs)
    assert not found.is_significant
    assert f"A test set of 200 texts cannot tell {found.first} from {found.second} (" in out
    smallest = f"; the smallest true difference detected in four of five cases is {found.smallest_difference:.4f}"
    assert smallest in out
    assert "is better than" not in out


def test_numbers_are_those_of_the_rows(write_run, caplog):
    a, b = read_runs([write_run("a", noise=0.8), write_run("b", noise=1.2)])
    right = [run.predictions.is_correct() for run in (a, b)]
    (found,), out = compared(caplog, a.folder, b.folder)
    assert found.difference.value == pytest.approx(right[0].mean() - right[1].mean())
    assert found.p_mcnemar == mcnemar(*right)
    assert found.smallest_difference == smallest_accuracy_difference(200, np.mean(right[0] != right[1]))
    assert f"{right[0].mean():.4f}" in out


def test_runs_that_predict_the_same_show_nothing_of_what_could_be_shown(write_run, caplog):
    runs = [write_run(name, noise=0.8) for name in ("a", "b")]
    (found,), out = compared(caplog, *runs)
    assert (found.difference.value, found.smallest_difference) == (0, None)
    assert "; they predict the same)" in out


def test_the_score_that_chose_all_models_is_tested(write_run, caplog):
    runs = [write_run(name, noise=noise, selection_metric="macro_f1") for name, noise in (("a", 0.3), ("b", 1.5))]
    assert "a is better than b: macro_f1" in compared(caplog, *runs)[1]
    other = write_run("c", noise=2.0, selection_metric="log_loss")
    assert compared(caplog, *runs, other)[1].splitlines()[1].split()[:2] == ["run", "accuracy"]


def test_lower_losses_are_better(write_run, caplog):
    runs = [write_run("sure", noise=0.2), write_run("unsure", noise=1.5)]
    (found,), out = compared(caplog, *runs, metric="log_loss")
    assert found.first == "sure"
    assert found.difference.value < found.difference.high < 0
    gain, low = -found.difference.value, -found.difference.high
    assert f"sure is better than unsure: log_loss {gain:.4f} lower (95 % interval {low:.4f} to" in out


def test_tables(write_run, caplog):
    runs = [write_run("a", noise=0.3, freeze="encoder"), write_run("b", noise=1.5, freeze="nothing", learning_rate=0.1)]
    _, out = compared(caplog, *runs, metrics=("macro_f1",))
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:6] == ["run", "accuracy", "95", "%", "interval", "macro_f1"]
    assert lines[3][-6:] == ["12.3", "s", "500", "MB", "1,234", "-"]
    assert ["freeze", "encoder", "nothing"] in lines
    assert ["learning_rate", "-", "0.1"] in lines
    assert not any(line[:1] in (["output_dir"], ["num_epochs"], ["task"]) for line in lines)
    _, out = compared(caplog, runs[0], write_run("c", noise=0.4, freeze="encoder"))
    assert "no settings differ" in out


def test_markdown(write_run, caplog):
    runs = [write_run("a|<b>", noise=0.3), write_run("c", noise=1.5, seed=4)]
    _, out = compared(caplog, *runs, markdown=True)
    assert "| run | accuracy | 95 % interval | training | memory | trained | texts per second |" in out
    assert "| --- | ---: | ---: | ---: | ---: | ---: | ---: |" in out
    assert "| a\\|&lt;b> | " in out


def test_many_runs(write_run, caplog):
    runs = [write_run(f"run {i}", noise=0.3 + 0.4 * i, seed=i) for i in range(6)]
    found, out = compared(caplog, *runs, resamples=99)
    assert len(found) == 15
    assert [each.first for each in found[:5]] == ["run 0"] * 5
    assert all(each.p_corrected >= each.p_randomization for each in found)
    assert out.count("run 0 - ") == 5
    assert "run 1 - " not in out
    assert "p-values are corrected for 15 pairs." in out


def test_output(write_run, caplog, tmp_path):
    runs = [write_run("a", noise=0.3, seed=0), write_run("b", noise=1.5, learning_rate=0.1)]
    (found,), out = compared(caplog, *runs, output=tmp_path / "comparison.json")
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert (written["task"], written["metric"], written["n"]) == ("single_label", "accuracy", 200)
    assert [run["name"] for run in written["runs"]] == ["a", "b"]
    assert written["settings"] == {"learning_rate": {"a": None, "b": 0.1}}
    assert written["comparisons"][0]["difference"]["low"] == found.difference.low
    assert written["conclusion"] in out
    with pytest.raises(ConfigError, match="Expected an output file in .json, found '.*x.csv'"):
        compare(CompareConfig(runs=tuple(runs), output=tmp_path / "x.csv"))


def test_one_run_says_what_its_test_set_can_show(write_run, caplog):
    folder = write_run("only", noise=0.8)
    found, out = compared(caplog, folder)
    share = read_runs([folder])[0].predictions.is_correct().mean()
    expected = smallest_accuracy_difference(200, 2 * share * (1 - share))
    assert found == []
    assert f"in accuracy from only is {expected:.4f}, for a model that is about as accurate" in out
    _, out = compared(caplog, write_run("scores", "regression"))
    assert "There is no run to compare scores with. Pass another run on these 200 texts." in out


def test_runs_on_other_data_are_refused(write_run):
    runs = [write_run("a"), write_run("b"), write_run("c", sha256="other")]
    with pytest.raises(
        ConfigError,
        match=r"found 2 different test splits: a, b \(200 texts\); c \(200 texts\)\. Compare runs with one of them",
    ):
        read_runs(runs)
    with pytest.raises(ConfigError, match=r"a \(200 texts\); d \(150 texts\)"):
        read_runs([runs[0], write_run("d", count=150)])


def test_runs_that_do_not_say_what_their_test_is_are_compared_by_their_rows(write_run, tmp_path):
    old, new = write_run("old", sha256=None), write_run("new")
    assert len(read_runs([old, new])) == 2
    path = old / "predictions.csv"
    path.write_text(path.read_text().replace("\n1,", "\n9999,", 1))
    with pytest.raises(ConfigError, match="found 2 different test splits"):
        read_runs([old, new])


def test_other_kinds_of_tasks_are_refused(write_run):
    runs = [write_run("a"), write_run("b", "regression")]
    with pytest.raises(ConfigError, match=r"of one kind of task, found a \(single_label\), b \(regression\)\. Compare"):
        read_runs(runs)


def test_what_is_no_finished_run_is_left_out_where_others_remain(write_run, tmp_path, caplog):
    runs = [write_run("a"), write_run("b", seed=2)]
    unfinished = write_run("unfinished")
    (unfinished / "scores.json").write_text('{"validation": {}}')
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds/seeds.json").touch()
    flaws = {
        unfinished: "has no scores on test yet: continue it with --resume",
        tmp_path / "notes": "is not the folder of a run",
        tmp_path / "file.txt": "is not a folder",
        tmp_path / "seeds": f"holds several runs: pass {tmp_path / 'seeds'}/seed-*",
    }
    assert [run.name for run in read_runs([*runs, *flaws])] == ["a", "b"]
    assert caplog.messages == [f"skipped: {folder} {flaw}" for folder, flaw in flaws.items()]
    for folder, flaw in flaws.items():
        with pytest.raises(ConfigError, match="Expected the folders of finished runs, found others: ") as error:
            read_runs([runs[0], folder])
        assert f"{folder} {flaw}" in str(error.value)
    with pytest.raises(ConfigError, match="Expected the folders of runs, found none. Pass for example"):
        read_runs([])


def test_predictions_of_another_run_are_noticed(write_run):
    a, b = write_run("a", noise=0.3), write_run("b", noise=1.5)
    (a / "predictions.csv").write_text((b / "predictions.csv").read_text())
    with pytest.raises(UntrustedFileError, match=r"scores.json and predictions.csv of one run in .*a, found accuracy"):
        read_runs([a, b])


@pytest.mark.parametrize("name", ["config.json", "scores.json", "costs.json", "data_report.json"])
def test_damaged_files_are_named(name, write_run):
    folder = write_run("a")
    (folder / name).write_text("[1")
    with pytest.raises(UntrustedFileError, match=f"Expected a JSON object in .*{name}, found something else"):
        read_runs([folder, write_run("b")])


def test_unknown_scores_are_refused(write_run):
    runs = (write_run("a"), write_run("b"))
    for settings in ({"metric": "f1"}, {"metrics": ("f1",)}):
        with pytest.raises(ConfigError, match=r"Expected scores of these runs \(accuracy, macro_f1, .*\), found f1\."):
            compare(CompareConfig(runs=runs, **settings))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="seed must be a whole number of at least 0, found -1"):
        CompareConfig(runs=(), seed=-1)


def test_a_run_from_python_says_its_kind_of_task_in_the_manifest(write_run):
    folder = write_run("a", "ordinal")
    (folder / "config.json").write_text('{"num_epochs": 3}')
    (run,) = read_runs([folder])
    assert (run.kind, run.settings) == ("ordinal", {"num_epochs": 3})
    (folder / "manifest.json").unlink()
    with pytest.raises(UntrustedFileError, match=r"Expected the kind of task in .*manifest.json, found None"):
        read_runs([folder])


def test_settings_that_differ(write_run):
    runs = read_runs([write_run("a", seed=1, model="m"), write_run("b", model="m", hidden=[5])])
    assert differing_settings(runs) == {"hidden": [None, [5]]}
    old, new = (
        write_run("old", dataset="x"),
        write_run("new", dataset="x", long_text="head", max_length=9, report=False),
    )
    assert differing_settings(read_runs([old, new])) == {"max_length": [None, 9], "report": [True, False]}


def test_names_are_as_long_as_it_takes(write_run):
    assert [run.name for run in read_runs([write_run("x/seed-0"), write_run("y/seed-0")])] == ["x/seed-0", "y/seed-0"]


def test_command_imports_no_torch(write_run):
    runs = [write_run("a", noise=0.3), write_run("b", noise=1.5)]
    code = "import sys; from nlptl import cli; cli.main(sys.argv[1:]); print(*({'torch', 'sklearn'} & {*sys.modules}))"
    out = subprocess.run(
        [sys.executable, "-c", code, "compare", *runs, "--resamples", "99"], capture_output=True, text=True, check=True
    ).stdout
    assert "a is better than b: " in out
    assert out.splitlines()[-1] == ""


def test_command_line(write_run, capsys):
    a, b, other = write_run("a"), write_run("b"), write_run("other", sha256="x")
    cli.main(["compare", str(a), str(b), "--metrics", "macro_f1", "matthews", "--resamples", "50"])
    assert "matthews" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit:
        cli.main(["compare", str(a), str(other)])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("nlptl: error: Expected runs with the same test data, found 2 different")
