"""What goes to tensorboard, wandb, mlflow and trackio: tensorboard is read back, of the others calls are recorded."""

import json
import logging
import math
import sys
import types
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nlptl import ConfigError, ResourceError, Trainer, TrainingConfig, cli
from nlptl.training.run import Run
from nlptl.training.tracking import OutsideTracker


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what tensorboard reads in the folder of a run: by name, steps and values."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def as_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the records of a run by the names and steps that a tracker has to have them by."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records(folder):
        step, is_evaluation = record.pop("step"), "epoch" in record
        record.pop("seconds")
        for key, value in record.items():
            if not is_evaluation:
                name = f"train/{key}"
            else:
                name = "train/mean_loss" if key == "loss" else key.replace("validation_", "validation/")
            found.setdefault(name, []).append((step, value))
    scores = json.loads((folder / "scores.json").read_text())
    last = records(folder)[-1]["step"]
    for split in ("validation", "test"):
        for name, score in scores.get(split, {}).items():
            if name != "per_class":
                found[f"final/{split}_{name}"] = [(last, score["value"])]
    return found


@pytest.fixture
def fit(build_model, splits):
    """Train a model in a folder, score test, and return its trainer."""

    def run(folder, *, resume=False, freeze="encoder", **settings):
        config = TrainingConfig(
            **{"num_epochs": 2, "batch_size": 24, "logging_steps": 2, "learning_rate": 0.01, **settings}
        )
        trainer = Trainer(build_model(freeze=freeze), config, output_dir=Run.open(folder, config, resume=resume))
        trainer.fit(splits["train"], validation=splits["validation"])
        trainer.evaluate(splits["test"])
        trainer.end_tracking()
        return trainer

    return run


def test_tensorboard_has_what_the_records_have(fit, tmp_path):
    folder = tmp_path / "run"
    fit(folder, track="tensorboard")
    found, wanted = scalars(folder), as_scalars(folder)
    assert found.keys() == wanted.keys()
    assert {"train/loss", "train/learning_rate", "validation/accuracy", "final/test_accuracy"} <= found.keys()
    for name, values in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in values]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in values], rel=1e-6)
    (settings,) = (folder / "tensorboard").glob("*/hparams.yml")
    assert {"num_epochs: 2", "optimizer: adamw"} <= set(settings.read_text().splitlines())


def test_tensorboard_shows_a_resumed_run_once(fit, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    folder, real, steps = tmp_path / "run", OutsideTracker.log, []

    def log(self, values, *, step=None):
        real(self, values, step=step)
        steps.append(step)
        if len(steps) == 5:  # steps 2, 4 and an evaluation, 6, 8: after the checkpoint of step 4
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(OutsideTracker, "log", log)
        with pytest.raises(Stopped):
            fit(folder, track="tensorboard", num_epochs=3)
    assert steps == [2, 4, 4, 6, 8]
    fit(folder, track="tensorboard", num_epochs=3, resume=True)
    found, wanted = scalars(folder), as_scalars(folder)
    assert [step for step, _ in found["train/loss"]] == [2, 4, 6, 8, 10, 12]
    for name, values in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in values], name
    assert len(list((folder / "tensorboard").glob("events.*"))) == 2  # files of one run


def test_training_is_the_same_with_and_without(fit, tmp_path):
    fit(tmp_path / "a", freeze="nothing", learning_rate=1e-3)
    fit(tmp_path / "b", freeze="nothing", learning_rate=1e-3, track="tensorboard")
    assert (tmp_path / "a/model/model.safetensors").read_bytes() == (
        tmp_path / "b/model/model.safetensors"
    ).read_bytes()


def test_a_fitted_head_has_its_scores_tracked(build_model, splits, tmp_path):
    config = TrainingConfig(track="tensorboard")
    trainer = Trainer(build_model(freeze="encoder", head="logistic"), config, output_dir=tmp_path / "run")
    trainer.fit(splits["train"], validation=splits["validation"])
    trainer.end_tracking()
    assert scalars(tmp_path / "run")["final/validation_accuracy"][0][0] == 0


class Recorder:
    """Stands for a run of wandb or trackio."""

    def __init__(self, calls: list, **settings: object) -> None:
        self.calls = calls
        calls.append(("init", settings))

    def log(self, values, step=None):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Put a package that records its calls in the place of a tracker, and return them."""

    def make(name: str) -> list:
        calls: list = []
        package = types.ModuleType(name)
        package.__spec__ = types.SimpleNamespace(name=name)
        config = types.SimpleNamespace(update=lambda values, **_: calls.append(("config", values)))
        package.config = config
        package.init = lambda **settings: Recorder(calls, **settings)
        if name == "mlflow":
            package.search_experiments = lambda **_: []
            package.create_experiment = lambda **_: "1"

            def start_run(**settings):
                calls.append(("init", settings))

            package.start_run = start_run
            limits = types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
            package.utils = types.SimpleNamespace(validation=limits)
            package.log_params = lambda values: calls.append(("config", values))
            package.log_metrics = lambda values, step=None: calls.append(("log", step, values))
            package.end_run = lambda: calls.append(("finish",))
        monkeypatch.setitem(sys.modules, name, package)
        return calls

    return make


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_the_others_are_called_in_order_and_a_resumed_run_is_a_new_one(name, stub, fit, tmp_path):
    calls, folder = stub(name), tmp_path / "run"
    fit(folder, track=name)
    kinds = [call[0] for call in calls]
    assert kinds == ["init", "config", *["log"] * (len(kinds) - 3), "finish"]
    settings = calls[1][1]
    assert (settings["num_epochs"], settings["optimizer"], settings["class_weights"]) == (2, "adamw", "null")
    assert all(isinstance(value, bool | int | float | str) for value in settings.values())
    logged: dict[str, list] = {}
    for _, step, values in calls[2:-1]:
        for key, value in values.items():
            logged.setdefault(key, []).append((step, value))
    assert logged == as_scalars(folder)

    calls.clear()
    fit(folder, track=name, num_epochs=3, resume=True)
    assert [call[0] for call in calls[:3]] == ["init", "config", "log"]
    assert min(step for _, step, _ in calls[2:-1]) > 8 - 1


def test_the_project_of_wandb_may_be_set(stub, tmp_path, monkeypatch):
    calls = stub("wandb")
    monkeypatch.setenv("WANDB_PROJECT", "reviews")
    OutsideTracker("wandb", Run.open(tmp_path / "run", TrainingConfig())).start(first_step=0)
    assert calls[0] == ("init", {"project": "reviews", "name": "run", "dir": str(tmp_path / "run")})


def test_values_that_are_no_numbers_stay_out(stub, tmp_path):
    calls, config = stub("wandb"), TrainingConfig()
    tracker = OutsideTracker("wandb", Run.open(tmp_path / "run", config))
    tracker.start(first_step=0)
    tracker.log({"a": 1.0, "b": math.nan, "c": math.inf}, step=3)
    tracker.log({"d": 2.0})
    assert calls[-2:] == [("log", 3, {"a": 1.0}), ("log", 3, {"d": 2.0})]
    tracker.finish()
    tracker.log({"e": 2.0}, step=4)
    tracker.finish()
    assert calls[-1] == ("finish",)
    assert [call[0] for call in calls].count("finish") == 1


def test_a_tracker_that_fails_stops_no_training(stub, fit, tmp_path, monkeypatch, caplog):
    calls = stub("wandb")
    fit(tmp_path / "a", track=None)

    def fail(self, values, step=None):
        raise ConnectionError("the server is gone.\nTry later.")

    monkeypatch.setattr(Recorder, "log", fail)
    fit(tmp_path / "b", track="wandb")
    said = [
        r.getMessage() for r in caplog.records if r.name == "nlptl.training.tracking" and r.levelno == logging.WARNING
    ]
    assert said == ["wandb failed and gets no more values; metrics.jsonl has all: the server is gone: Try later."]
    assert [call[0] for call in calls] == ["init", "config"]
    assert len(records(tmp_path / "a")) == len(records(tmp_path / "b"))


def test_a_tracker_that_cannot_be_started_is_named_before_training(stub, fit, tmp_path, monkeypatch):
    stub("wandb")
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **_: 1 / 0)
    with pytest.raises(ResourceError, match="Expected to start wandb, found: division by zero. Log in or set it up"):
        fit(tmp_path / "run", track="wandb")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_tracker_that_is_not_there_is_refused_first(build_model, splits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Expected mlflow to be installed for --track mlflow.*'nlptl\[mlflow\]'"):
        Trainer(build_model(), TrainingConfig(track="mlflow"), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    trainer = Trainer(build_model(), TrainingConfig(track="tensorboard"))
    with pytest.raises(ConfigError, match="Expected the folder of a run to track with tensorboard, found none"):
        trainer.fit(splits["train"])
    with pytest.raises(ConfigError, match="track must be 'tensorboard', 'wandb', 'mlflow', 'trackio' or None"):
        TrainingConfig(track="visdom")


def test_a_training_that_fails_ends_what_is_tracked(stub, fit, tmp_path, monkeypatch):
    calls = stub("wandb")
    monkeypatch.setattr("nlptl.training.loop.Loop._evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run", track="wandb")
    assert calls[-1] == ("finish",)


def test_a_recipe_tracks_one_run_and_a_dry_run_none(toy_csv, tiny_bert, tmp_path):
    words = ["run", "sentiment", "--model", tiny_bert, "--dataset", toy_csv, "--output-dir", tmp_path / "run"]
    words += ["--track", "tensorboard", "--num-epochs", 2, "--no-near-duplicates"]
    cli.main([*map(str, words), "--dry-run"])
    assert not (tmp_path / "run").exists()
    cli.main(list(map(str, words)))
    assert len(list((tmp_path / "run" / "tensorboard").glob("events.*"))) == 1
    (step, value), *others = scalars(tmp_path / "run")["final/test_accuracy"]
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert (step, others) == (6, [])
    assert value == pytest.approx(scores["test"]["accuracy"]["value"])
