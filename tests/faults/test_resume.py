"""A run that was stopped anywhere and resumed ends in the bytes of one that was not; dropout is on."""

import json
import logging
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from nlptl import (
    Classifier,
    ConfigError,
    NonFiniteError,
    ResourceError,
    Splits,
    Trainer,
    TrainingConfig,
    UntrustedFileError,
    load_splits,
)
from nlptl.training.checkpoint import Background, saved_steps
from nlptl.training.tracking import Tracker
from tests import processes

REPOSITORY = Path(__file__).parents[2]


class Stopped(BaseException):
    """No error that anything catches."""


@pytest.fixture
def stop_at(monkeypatch):
    """Arrange that the training stops at its n-th optimizer step, backward pass or record; return how to undo that."""

    def arrange(place, count):
        calls = []

        def stop(*_):
            calls.append(place)
            if len(calls) == count:
                raise Stopped

        if place == "step":
            return register_optimizer_step_post_hook(stop).remove
        owner = torch.Tensor if place == "backward" else Tracker
        real = getattr(owner, place)
        monkeypatch.setattr(owner, place, lambda *args, **kwargs: (real(*args, **kwargs), stop()))
        return monkeypatch.undo

    return arrange


@pytest.fixture(scope="module")
def whole(train, outcome, tmp_path_factory):
    """Return what a run with these settings comes to that nothing has stopped."""
    found = {}

    def get(**settings):
        key = str(settings)
        if key not in found:
            output = tmp_path_factory.mktemp("whole") / "run"
            train(output, **settings)
            found[key] = outcome(output)
        return found[key]

    return get


@pytest.fixture
def stopped(train, stop_at, tmp_path):
    """Return the folder of a run that was stopped after step 7, with the checkpoints of steps 3 and 6."""
    interrupted(train, tmp_path / "run", stop_at("step", 7))
    return tmp_path / "run"


def interrupted(train, output, undo, **settings):
    with pytest.raises(Stopped):
        train(output, **settings)
    undo()


@pytest.mark.parametrize("settings", [{}, {"freeze": "encoder", "optimizer": "sgd", "early_stopping": 1}], ids=str)
def test_stop_after_every_step(settings, train, outcome, whole, stop_at, tmp_path):
    expected = whole(**settings)
    num_steps = expected["records"][-1]["step"]
    assert num_steps == (8 if "early_stopping" not in settings else 6)
    for step in range(1, num_steps + 1):
        output = tmp_path / str(step)
        interrupted(train, output, stop_at("step", step), **settings)
        train(output, resume=True, **settings)
        assert outcome(output) == expected, step


@pytest.mark.parametrize(
    ("place", "count"), [("backward", 8), ("backward", 23), ("record", 4), ("record", 9), ("say", 2)]
)
def test_stop_inside_a_step_and_inside_an_evaluation(place, count, train, outcome, whole, stop_at, tmp_path):
    settings = {"micro_batch_tokens": 100}
    interrupted(train, tmp_path / "run", stop_at(place, count), **settings)
    train(tmp_path / "run", resume=True, **settings)
    assert outcome(tmp_path / "run") == whole(**settings)


def test_two_stops_in_a_row_and_a_resume_of_what_is_done(train, outcome, whole, stop_at, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    interrupted(train, tmp_path / "run", stop_at("step", 5))
    interrupted(train, tmp_path / "run", stop_at("step", 4), resume=True)
    assert "resuming after step 3" in caplog.messages
    for _ in range(2):
        train(tmp_path / "run", resume=True)
        assert outcome(tmp_path / "run") == whole()
    assert caplog.messages.count("resuming after step 6") == 1
    assert caplog.messages.count("resuming after step 8") == 1


def test_torn_last_record_is_dropped(train, outcome, whole, stop_at, tmp_path):
    interrupted(train, tmp_path / "run", stop_at("step", 5))
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    train(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == whole()


def test_interrupted_model_can_be_trained_again(tiny_bert, toy_csv, stop_at):
    """Gradients of a step that was left in its middle are not part of the next training."""
    splits, found = load_splits(toy_csv), []
    for count in (None, 3):
        model = Classifier.from_pretrained(tiny_bert, labels=splits.labels)
        start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
        trainer = Trainer(model, TrainingConfig(num_epochs=1, micro_batch_tokens=100))
        if count is not None:
            undo = stop_at("backward", count)
            with pytest.raises(Stopped):
                trainer.fit(splits["train"])
            undo()
            assert all(torch.equal(start[name], p) for name, p in model.network.named_parameters())
        trainer.fit(splits["train"])
        found.append(model.network.classifier.weight.detach())
    assert torch.equal(*found)


def test_nothing_to_resume_starts_from_the_beginning(train, outcome, whole, stop_at, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    interrupted(train, tmp_path / "run", stop_at("step", 1), resume=True)
    assert f"nothing to resume in {tmp_path / 'run'}: starting a new run" in caplog.messages
    train(tmp_path / "run", resume=True)
    message = f"no checkpoint in {tmp_path / 'run/checkpoints'}: starting at step 0"
    assert caplog.messages.count(message) == 1
    assert outcome(tmp_path / "run") == whole()


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "short": content[:-1]}[how])


@pytest.mark.parametrize(
    ("file", "how"),
    [
        *(("weights.safetensors", how) for how in ("missing", "flipped", "empty", "half", "short")),
        ("optimizer.safetensors", "flipped"),
        ("state.json", "flipped"),
        *(("manifest.json", how) for how in ("missing", "flipped", "half")),
    ],
)
def test_damaged_checkpoint_is_skipped_for_the_one_before(file, how, train, outcome, whole, stopped, caplog):
    damage(stopped / "checkpoints/step-000006" / file, how)
    caplog.set_level(logging.INFO)
    train(stopped, resume=True)
    assert re.search(f"skipping the checkpoint of step 6: .*({file}|damaged)", caplog.text)
    assert "resuming after step 3" in caplog.messages
    assert outcome(stopped) == whole()


def test_checkpoints_in_each_others_place_are_refused(train, stopped):
    folder = stopped / "checkpoints"
    (folder / "step-000003").rename(folder / "aside")
    (folder / "step-000006").rename(folder / "step-000003")
    (folder / "aside").rename(folder / "step-000006")
    with pytest.raises(
        UntrustedFileError,
        match=r"All 2 checkpoints in .* are damaged\. Restore one from a copy, or start the run again",
    ):
        train(stopped, resume=True)


def test_run_whose_checkpoints_are_all_damaged_does_not_start_afresh(train, stopped, caplog):
    for path in (stopped / "checkpoints").glob("step-*"):
        damage(path / "weights.safetensors", "short")
    records = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(UntrustedFileError, match="All 2 checkpoints in .* are damaged") as error:
        train(stopped, resume=True)
    assert error.value.exit_code == 4
    assert caplog.text.count("damaged: weights.safetensors") == 2
    assert (stopped / "metrics.jsonl").read_bytes() == records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.001 and is 0.5"),
        ({"freeze": "encoder"}, "freeze was 'nothing' and is 'encoder', pooling was 'native' and is 'mean'"),
    ],
)
def test_other_settings_are_refused(change, message, train, stopped):
    with pytest.raises(ConfigError, match=message):
        train(stopped, resume=True, **change)


def test_killed_recipe_resumes_to_the_same_bytes(tiny_bert, toy_csv, outcome, tmp_path):
    words = [REPOSITORY / "recipes/sentiment.py", "--model", tiny_bert]
    words += ["--dataset", toy_csv, "--num-epochs", "40", "--eval-steps", "7", "--logging-steps", "5"]
    words += ["--selection-metric", "log_loss", "--freeze", "encoder", "--early-stopping", "9", "--output-dir"]
    processes.run([*words, tmp_path / "whole"], check=True)
    expected = outcome(tmp_path / "whole")
    wanted = max(record["step"] for record in expected["records"]) // 2
    with processes.Process([*words, tmp_path / "run"], stdout=processes.DEVNULL, stderr=processes.DEVNULL) as run:
        while not any(step >= wanted for step in steps_of(tmp_path / "run")):
            assert run.poll() is None
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    processes.run([*words, tmp_path / "run", "--resume"], check=True)
    assert outcome(tmp_path / "run") == expected


def steps_of(run):
    """Return the steps recorded so far; the last line may still be in the writing."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def test_a_second_training_is_not_resumed_from_the_first(tiny_bert, toy_csv, tmp_path, stop_at):
    splits = load_splits(toy_csv, seed=0)
    model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, freeze="encoder")
    trainer = Trainer(model, TrainingConfig(num_epochs=1), output_dir=tmp_path / "run")
    trainer.fit(splits["train"], validation=splits["validation"])
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000003"]
    undo = stop_at("step", 1)
    with pytest.raises(Stopped):
        trainer.fit(splits["train"], validation=splits["validation"])
    undo()
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_going_on_to_more_epochs(train, outcome, stop_at, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(tmp_path / "run")
    with pytest.raises(ConfigError, match="num_epochs was 2 and is 1. Resume it with the same settings"):
        train(tmp_path / "run", resume=True, num_epochs=1)
    train(tmp_path / "run", resume=True, num_epochs=4)
    assert "training for 4 epochs instead of 2; the learning rate follows the new number" in caplog.text
    assert "resuming after step 8" in caplog.messages
    assert steps_of(tmp_path / "run")[-1] == 16
    assert (tmp_path / "run/checkpoints/step-000016/manifest.json").is_file()
    assert json.loads((tmp_path / "run/config.json").read_text())["num_epochs"] == 4

    train(tmp_path / "other")
    interrupted(train, tmp_path / "other", stop_at("step", 3), resume=True, num_epochs=4)
    train(tmp_path / "other", resume=True, num_epochs=4)
    assert outcome(tmp_path / "other") == outcome(tmp_path / "run")


def test_a_refused_resume_changes_nothing(train, outcome, whole, stopped, monkeypatch):
    config = (stopped / "config.json").read_bytes()
    monkeypatch.setattr(Splits, "__getitem__", lambda self, name: getattr(self, name).select(range(10)))
    with pytest.raises(ConfigError, match="was started on other texts"):
        train(stopped, resume=True, num_epochs=3)
    monkeypatch.undo()
    assert (stopped / "config.json").read_bytes() == config
    train(stopped, resume=True)
    assert outcome(stopped) == whole()


def test_checkpoints_without_a_manifest_of_the_run_are_not_used(train, stopped):
    (stopped / "manifest.json").unlink()
    with pytest.raises(
        UntrustedFileError, match=r"manifest.json is missing, so the checkpoints beside it cannot be checked"
    ):
        train(stopped, resume=True)


def test_checkpoints_of_another_run_are_not_used(train, stopped, tmp_path, caplog):
    train(tmp_path / "other", freeze=1)
    shutil.rmtree(tmp_path / "other/checkpoints")
    shutil.copytree(stopped / "checkpoints", tmp_path / "other/checkpoints")
    with pytest.raises(UntrustedFileError, match="All 2 checkpoints in .* are damaged"):
        train(tmp_path / "other", freeze=1, resume=True)
    assert caplog.text.count("a checkpoint of another run") == 2


@pytest.mark.parametrize("is_replaced", [False, True])
def test_folder_that_is_moved_away(is_replaced, train, tmp_path, monkeypatch):
    monkeypatch.setattr(Background, "start", lambda self, write: write())  # none is half written when it is moved

    def move(*_):
        steps.append(1)
        if len(steps) == 4:
            (tmp_path / "run").rename(tmp_path / "moved")
            if is_replaced:
                (tmp_path / "run").mkdir()

    steps = []
    handle = register_optimizer_step_post_hook(move)
    with pytest.raises(
        ResourceError, match="no longer the folder of this run" if is_replaced else "No such file or directory"
    ):
        train(tmp_path / "run")
    handle.remove()
    assert [path.name for path in (tmp_path / "moved/checkpoints").iterdir()] == ["step-000003"]
    assert not (tmp_path / "run/checkpoints").exists()


def test_what_killed_saves_of_the_model_have_left_is_removed(train, stopped):
    (stopped / ".model-left/new").mkdir(parents=True)
    train(stopped, resume=True)
    assert not (stopped / ".model-left").exists()


def test_layers_that_would_thaw_later_are_not_added(train, tmp_path):
    settings = {"unfreeze_every_epochs": 1}
    train(tmp_path / "run", **settings)
    with pytest.raises(ConfigError, match="num_epochs was 2 and is 4"):
        train(tmp_path / "run", resume=True, num_epochs=4, **settings)


@pytest.mark.parametrize(
    "settings", [{"save_steps": 2}, {"save_steps": 5, "eval_steps": None}, {"keep_last": 3}], ids=str
)
def test_checkpoints_between_evaluations(settings, train, outcome, whole, stop_at, tmp_path):
    plain = {"eval_steps": settings.get("eval_steps", 3)}
    expected = whole(**settings)
    assert expected["model/model.safetensors"] == whole(**plain)["model/model.safetensors"]
    for step in (5, 7):
        output = tmp_path / str(step)
        interrupted(train, output, stop_at("step", step), **settings)
        train(output, resume=True, **settings)
        assert outcome(output) == expected, step
    if settings == {"save_steps": 2}:
        assert {"step-000006", "step-000008"} <= expected["checkpoints"].keys()


def test_rows_of_a_step_that_diverges_are_written_down(train, tmp_path, monkeypatch):
    real = torch.nn.functional.cross_entropy
    calls = []

    def loss(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs) * (float("nan") if len(calls) > 7 else 1)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", loss)
    with pytest.raises(NonFiniteError, match="Training diverged: loss nan"):
        train(tmp_path / "run")
    found = json.loads((tmp_path / "run/nonfinite.json").read_text())
    assert found["step"] > 1
    assert len(found["rows"]) == len(set(found["rows"])) == 24
    assert found["source"].endswith("reviews.csv")
    assert saved_steps(tmp_path / "run/checkpoints") != []
