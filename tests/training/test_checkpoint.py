"""A checkpoint is complete or invisible, whatever happens to whoever writes it."""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nlptl.errors import ConfigError, ResourceError, UntrustedFileError
from nlptl.training import checkpoint as checkpoints
from nlptl.training.checkpoint import (
    FILES,
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    pack,
    prune_checkpoints,
    save_checkpoint,
)


class Crashed(BaseException):
    """The process is gone."""


def build(step, best_step=None):
    weights = {"a": torch.full((3, 2), float(step)), "b": torch.arange(4.0)}
    optimizer = {"a//step": torch.tensor(float(step)), "a//exp_avg": torch.ones(3, 2)}
    return Checkpoint(weights, optimizer, {"step": step, "best_step": best_step})


def save(folder, step, checkpoint):
    save_checkpoint(folder, step, pack(checkpoint))


def assert_same(one, two):
    assert one.state == two.state
    for mine, other in ((one.weights, two.weights), (one.optimizer, two.optimizer)):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_what_is_read_is_what_was_written(tmp_path):
    save(tmp_path, 12, build(12, best_step=12))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000012"]
    assert sorted(path.name for path in (tmp_path / "step-000012").iterdir()) == [
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    assert_same(load_checkpoint(tmp_path, 12), build(12, best_step=12))


def test_optimizer_without_state(tmp_path):
    save(tmp_path, 1, Checkpoint({"a": torch.ones(2)}, {}, {"best_step": None}))
    assert load_checkpoint(tmp_path, 1).optimizer == {}


def test_latest_is_by_step_and_comes_with_the_best(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "nowhere") is None
    for step, best in ((999_999, 999_999), (1_000_000, 999_999), (2, None)):
        save(tmp_path, step, build(step, best_step=best))
    os.utime(tmp_path / "step-000002", (2e9, 2e9))
    (tmp_path / "step-x").mkdir()
    newest, best = latest_checkpoint(tmp_path)
    assert newest.state["step"] == 1_000_000
    assert_same(best, build(999_999, best_step=999_999))
    for step in (1_000_000, 999_999):
        shutil.rmtree(tmp_path / f"step-{step}")
    newest, best = latest_checkpoint(tmp_path)
    assert (newest.state["step"], best) == (2, None)


def test_checkpoint_without_its_best_is_not_used(tmp_path, caplog):
    save(tmp_path, 2, build(2, best_step=2))
    save(tmp_path, 4, build(4, best_step=3))
    newest, best = latest_checkpoint(tmp_path)
    assert newest.state["step"] == best.state["step"] == 2
    assert "skipping the checkpoint of step 4, which needs that of step 3: [Errno 2] No such file " in caplog.text


def test_where_the_best_is_damaged_for_all_the_newest_is_used(tmp_path, caplog):
    for step in (2, 4, 6):
        save(tmp_path, step, build(step, best_step=2))
    (tmp_path / "step-000002/state.json").write_bytes(b"")
    newest, best = latest_checkpoint(tmp_path)
    assert "the best weights so far are damaged" in caplog.text
    expected = build(6, best_step=2)
    assert_same(newest, replace(expected, state={**expected.state, "best_step": None, "best_value": None}))
    assert best is None


def test_checkpoint_of_another_run_is_not_used(tmp_path):
    save_checkpoint(tmp_path, 3, pack(build(3)), run="one")
    assert_same(load_checkpoint(tmp_path, 3, "one"), build(3))
    with pytest.raises(UntrustedFileError, match="found: a checkpoint of another run"):
        load_checkpoint(tmp_path, 3, "other")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"format": 1}, "damaged: manifest.json"),
        ({"step": 4}, "found: a checkpoint of step 4"),
        ({"sha256": {"state.json": "0"}}, "damaged: manifest.json"),
        ({"sha256": dict.fromkeys(FILES, "0")}, "damaged: weights.safetensors, .*, state.json"),
        ({"sha256": None}, "object is not iterable"),
    ],
)
def test_manifest_that_says_something_else(change, found, tmp_path):
    save(tmp_path, 3, build(3))
    path = tmp_path / "step-000003/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UntrustedFileError, match=found):
        load_checkpoint(tmp_path, 3)


@pytest.mark.parametrize("averages", [{}, {"a": torch.ones(3, 2)}], ids=["unused", "used"])
def test_moving_averages_of_an_old_checkpoint(averages, tmp_path):
    save(tmp_path, 3, build(3))
    folder = tmp_path / "step-000003"
    content = safetensors.torch.save(averages)
    (folder / "averages.safetensors").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["averages.safetensors"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 3}))
    if averages:
        with pytest.raises(
            ConfigError, match=r"step-000003 holds a moving average .* \(ema_decay\), which nlptl 0\.2\.0"
        ):
            latest_checkpoint(tmp_path)
    else:
        assert_same(latest_checkpoint(tmp_path)[0], build(3))


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "\x00"])
def test_manifest_that_is_none(content, tmp_path):
    save(tmp_path, 3, build(3))
    (tmp_path / "step-000003/manifest.json").write_text(content)
    with pytest.raises(UntrustedFileError, match="Expected a complete checkpoint in .* or start a new run"):
        load_checkpoint(tmp_path, 3)


@pytest.mark.parametrize("file", FILES)
def test_any_flipped_bit_is_found(file, tmp_path):
    save(tmp_path, 3, build(3))
    path = tmp_path / "step-000003" / file
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 20)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with pytest.raises(UntrustedFileError, match=f"damaged: {file}"):
            load_checkpoint(tmp_path, 3)


WRONG = r"damaged|has format|a checkpoint of another run|a checkpoint of step \d"


def test_any_flipped_bit_of_the_manifest_is_found(tmp_path):
    save_checkpoint(tmp_path, 3, pack(build(3)), run="1f")
    path = tmp_path / "step-000003/manifest.json"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with pytest.raises(UntrustedFileError, match=WRONG):
            load_checkpoint(tmp_path, 3, "1f")


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_file_that_is_cut_or_gone_is_named(file, tmp_path):
    for cut in (0, 0.5, 0.99):
        save(tmp_path, 3, build(3))
        path = tmp_path / "step-000003" / file
        path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * cut)])
        with pytest.raises(UntrustedFileError, match=f"damaged: {file}"):
            load_checkpoint(tmp_path, 3)
    path.unlink()
    with pytest.raises(UntrustedFileError, match=rf"No such file or directory: .*{file}"):
        load_checkpoint(tmp_path, 3)


@pytest.fixture
def fail_at(monkeypatch):
    """Arrange that the n-th call that changes the disk raises, before or after it is done; count the calls."""
    places = [(os, "fsync"), (os, "open"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (Path, "rename")]
    real = {name: getattr(owner, name) for owner, name in places}
    real_open = Path.open

    def arrange(count, error, *, is_done=False):
        calls = []

        def watch(function):
            def call(*args, **kwargs):
                calls.append(function)
                is_due = len(calls) == count
                # A file that was opened is there, and empty, as it is before the flush that is the next call.
                if is_due and (not is_done or function is real_open):
                    raise error
                try:
                    return function(*args, **kwargs)
                finally:
                    if is_due:
                        raise error

            return call

        for owner, name in places:
            monkeypatch.setattr(owner, name, watch(real[name]))
        monkeypatch.setattr(Path, "open", watch(real_open))
        return calls

    return arrange


def count_calls(fail_at, monkeypatch, folder):
    calls = fail_at(0, Crashed())
    save_and_prune(folder)
    monkeypatch.undo()
    return len(calls)


def save_and_prune(folder):
    save(folder, 6, build(6, best_step=4))
    prune_checkpoints(folder, keep={4, 6})


@pytest.fixture
def before(tmp_path):
    """Return a folder with the checkpoints of steps 2 and 4, and what a crash has left of an earlier step 6."""
    folder = tmp_path / "before"
    for step in (2, 4):
        save(folder, step, build(step, best_step=step))
    save(folder, 6, build(5, best_step=4))
    (folder / "step-000006/state.json").unlink()
    (folder / ".step-000006-left").mkdir()
    return folder


@pytest.mark.parametrize("is_done", [False, True])
def test_crash_at_every_file_operation(is_done, before, fail_at, monkeypatch, tmp_path):
    shutil.copytree(before, tmp_path / "counted")
    num_calls = count_calls(fail_at, monkeypatch, tmp_path / "counted")
    assert num_calls > 20
    seen = set()
    for count in range(1, num_calls + 1):
        folder = tmp_path / f"{count}"
        shutil.copytree(before, folder)
        fail_at(count, Crashed(), is_done=is_done)
        with pytest.raises(Crashed):
            save_and_prune(folder)
        monkeypatch.undo()
        newest, best = latest_checkpoint(folder)
        step = newest.state["step"]
        seen.add(step)
        assert_same(newest, build(step, best_step=4))
        assert_same(best, build(4, best_step=4))
        save_and_prune(folder)
        assert sorted(path.name for path in folder.iterdir()) == ["step-000004", "step-000006"]
    assert seen == {4, 6}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_disk_that_fails_is_said_and_harms_nothing(code, before, fail_at, monkeypatch, tmp_path):
    shutil.copytree(before, tmp_path / "counted")
    calls = fail_at(0, Crashed())
    save(tmp_path / "counted", 6, build(6, best_step=4))
    monkeypatch.undo()
    for count in range(2, len(calls) + 1):  # the first makes the folder, which is there
        folder = tmp_path / f"{count}"
        shutil.copytree(before, folder)
        fail_at(count, OSError(code, os.strerror(code)))
        with pytest.raises(
            ResourceError, match=rf"step-000006 of 0.0 MB: {os.strerror(code)}\. Free some space or fix"
        ):
            save(folder, 6, build(6, best_step=4))
        monkeypatch.undo()
        assert latest_checkpoint(folder)[1].state["step"] == 4


def test_pruning_keeps_what_is_named(tmp_path, caplog, monkeypatch):
    for step in (1, 2, 3):
        save(tmp_path, step, build(step))
    (tmp_path / "notes.txt").touch()
    prune_checkpoints(tmp_path, keep={1, 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step-000001", "step-000003"]
    monkeypatch.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)
    prune_checkpoints(tmp_path, keep={3})
    assert caplog.messages == [f"could not remove the old checkpoint {tmp_path / 'step-000001'}"]
