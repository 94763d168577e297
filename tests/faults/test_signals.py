"""Asked to end, a training finishes its step, saves and goes; what is resumed ends in the same bytes."""

import os
import signal
import threading

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import nlptl
from nlptl import ConfigError
from nlptl.training import interruption, loop
from nlptl.training.checkpoint import Background
from nlptl.training.tracking import Tracker
from tests import processes

HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
SETTINGS = {"micro_batch_tokens": 100}


@pytest.fixture(autouse=True)
def _usual_handlers():
    """Give signals their usual effect, which they lack in a process that was started in the background."""
    before = {number: signal.signal(number, handler) for number, handler in HANDLERS.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def send_at(monkeypatch):
    """Arrange that the process sends itself a signal at its n-th step, backward pass or line; return how to undo it."""

    def arrange(place, count, *numbers):
        calls = []

        def send(*_):
            calls.append(place)
            if len(calls) == count:
                for number in numbers:
                    os.kill(os.getpid(), number)

        if place == "step":
            return register_optimizer_step_post_hook(send).remove
        owner = torch.Tensor if place == "backward" else Tracker
        real = getattr(owner, place)
        monkeypatch.setattr(owner, place, lambda *args, **kwargs: (real(*args, **kwargs), send()))
        return monkeypatch.undo

    return arrange


@pytest.fixture
def train_or_stop(train):
    """Train as a script does that asks for it: the first signal ends the training cleanly."""

    def run(*args, **settings):
        with nlptl.stop_on_signals():
            train(*args, **settings)

    return run


@pytest.fixture(scope="module")
def whole(train, outcome, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    train(output, **SETTINGS)
    return outcome(output)


@pytest.mark.parametrize(
    ("number", "place", "count", "step"),
    [
        (signal.SIGTERM, "step", 1, 1),
        (signal.SIGINT, "step", 5, 5),
        (signal.SIGTERM, "backward", 23, 5),
        (signal.SIGINT, "backward", 23, 5),
        (signal.SIGTERM, "say", 2, 6),
        (signal.SIGINT, "step", 8, 8),
    ],
)
def test_the_step_is_finished_and_saved(
    number, place, count, step, train, train_or_stop, outcome, whole, send_at, tmp_path, caplog, capfd
):
    undo = send_at(place, count, number)
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt) as left:
        train_or_stop(tmp_path / "run", **SETTINGS)
    undo()
    if number == signal.SIGTERM:
        assert left.value.code == 143
    assert {number: signal.getsignal(number) for number in HANDLERS} == HANDLERS
    assert f"{number.name}: ending after this step; a second one ends at once" in capfd.readouterr().err
    assert f"interrupted after step {step}; --resume continues from its checkpoint in {tmp_path / 'run'}" in caplog.text
    assert (tmp_path / f"run/checkpoints/step-{step:06d}/manifest.json").is_file()
    train(tmp_path / "run", resume=True, **SETTINGS)
    assert outcome(tmp_path / "run") == whole


def test_ten_times_in_a_row(train, train_or_stop, outcome, whole, send_at, tmp_path):
    for _ in range(7):
        undo = send_at("step", 1, signal.SIGTERM)
        with pytest.raises(SystemExit):
            train_or_stop(tmp_path / "run", resume=True, **SETTINGS)
        undo()
    train(tmp_path / "run", resume=True, **SETTINGS)
    assert outcome(tmp_path / "run") == whole


def test_a_second_one_ends_at_once(train, train_or_stop, outcome, whole, send_at, tmp_path, monkeypatch):
    monkeypatch.setattr(Background, "start", lambda self, write: write())  # none is half written when it ends
    undo = send_at("backward", 23, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_or_stop(tmp_path / "run", **SETTINGS)
    undo()
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000003"]
    train(tmp_path / "run", resume=True, **SETTINGS)
    assert outcome(tmp_path / "run") == whole


@pytest.mark.parametrize("call", [1, 3], ids=["before", "while"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_being_written_is_finished(number, call, train, train_or_stop, outcome, whole, tmp_path, monkeypatch):
    """The signal comes after the last step, before or while its checkpoint is being written."""
    started, sent, calls = threading.Event(), [], []
    real_save, real_finish = loop.save_checkpoint, Background.finish

    def save(folder, step, files, **settings):
        if step == 8:
            started.wait()
        real_save(folder, step, files, **settings)

    def finish(self):
        if len(steps) == 8:
            calls.append("finish")
        if not sent and len(calls) == call:
            sent.append(number)
            threading.Timer(0.2, started.set).start()
            os.kill(os.getpid(), number)
        real_finish(self)

    steps = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    monkeypatch.setattr(loop, "save_checkpoint", save)
    monkeypatch.setattr(Background, "finish", finish)
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
        train_or_stop(tmp_path / "run", **SETTINGS)
    handle.remove()
    monkeypatch.undo()
    assert sent == [number]
    assert {number: signal.getsignal(number) for number in HANDLERS} == HANDLERS
    assert (tmp_path / "run/checkpoints/step-000008/manifest.json").is_file()
    train(tmp_path / "run", resume=True, **SETTINGS)
    assert outcome(tmp_path / "run") == whole


def test_who_read_the_errors_may_be_gone(train_or_stop, send_at, tmp_path, monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    undo = send_at("step", 5, signal.SIGTERM)
    monkeypatch.setattr(interruption.os, "write", broken)
    with pytest.raises(SystemExit):
        train_or_stop(tmp_path / "run", **SETTINGS)
    undo()
    assert (tmp_path / "run/checkpoints/step-000005/manifest.json").is_file()


def test_unasked_ctrl_c_is_a_plain_interrupt_and_the_last_checkpoint_is_good(train, outcome, whole, send_at, tmp_path):
    undo = send_at("step", 5, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as left:
        train(tmp_path / "run", **SETTINGS)
    undo()
    assert type(left.value) is KeyboardInterrupt
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000003"]  # of the evaluation
    train(tmp_path / "run", resume=True, **SETTINGS)
    assert outcome(tmp_path / "run") == whole


def test_unasked_no_handler_is_changed(train, tmp_path):
    seen = set()
    handle = register_optimizer_step_post_hook(lambda *_: seen.update(map(signal.getsignal, HANDLERS)))
    train(tmp_path / "run", **SETTINGS)
    handle.remove()
    assert seen == {*HANDLERS.values()}


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_outside_of_a_training_the_first_signal_ends_the_block(number, error):
    def wait_for_it():
        with nlptl.stop_on_signals():
            os.kill(os.getpid(), number)
            threading.Event().wait(300)

    with pytest.raises(error) as left:
        wait_for_it()
    assert getattr(left.value, "code", 143) == 143
    assert {number: signal.getsignal(number) for number in HANDLERS} == HANDLERS


def test_it_is_refused_where_no_signal_comes():
    caught = []

    def use():
        with pytest.raises(ConfigError, match="stop_on_signals in the main thread, found another one") as refused:
            nlptl.stop_on_signals().__enter__()
        caught.append(refused)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(timeout=300)
    assert caught


def test_in_another_thread_signals_are_left_alone(train, outcome, whole, tmp_path):
    thread = threading.Thread(target=train, args=(tmp_path / "run",), kwargs=SETTINGS)
    thread.start()
    thread.join()
    assert outcome(tmp_path / "run") == whole


def test_exit_code_of_the_command(tiny_bert, toy_csv, tmp_path):
    words = ["-m", "nlptl", "run", "sentiment", "--model", tiny_bert, "--dataset", toy_csv, "--num-epochs", 100_000]
    words += ["--freeze", "nothing", "--output-dir", tmp_path / "run", "--logging-steps", 1]
    with processes.Process(words, stdout=processes.PIPE, stderr=processes.PIPE) as process:
        said = iter(process.stdout.readline, "")
        assert any(line.startswith("epoch 1: ") for line in said)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted after step " in out + err
    assert "Traceback" not in out + err
