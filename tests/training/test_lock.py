"""One process at a time writes into the folder of a run, and the system takes care of what a killed one leaves."""

import errno
import fcntl
import gc
import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from nlptl import ConfigError, ResourceError, Run, TrainingConfig
from tests import processes

CONFIG = TrainingConfig()
HOLD = """
import sys
from nlptl import Run, TrainingConfig
run = Run.open(sys.argv[1], TrainingConfig())
run.record_data({"seed": 0})
print("taken", flush=True)
sys.stdin.read()
"""


def is_locked(folder: Path) -> bool:
    """Return whether another process could not lock the folder: a second descriptor stands for it."""
    descriptor = os.open(folder / ".lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@pytest.mark.multiprocess
def test_folder_that_another_process_trains_in_is_refused(tmp_path):
    folder = tmp_path / "run"
    with processes.Process(["-c", HOLD, folder], stdin=processes.PIPE, stdout=processes.PIPE) as holder:
        assert holder.stdout.readline() == "taken\n"
        found = re.escape(
            f"found {folder} in use by pid {holder.pid} on {socket.gethostname()}. Wait until it has ended"
        )
        for settings in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ConfigError, match=found):
                Run.open(folder, CONFIG, **settings)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert Run.open(folder, CONFIG, resume=True).resume


def test_folder_is_locked_as_long_as_one_of_its_runs_lives(tmp_path):
    first = Run.open(tmp_path / "run", CONFIG)
    first.record_data({"seed": 0})
    second = Run.open(tmp_path / "run", CONFIG, resume=True)
    for refused in ({}, {"resume": True, "overwrite": True}):
        with pytest.raises(ConfigError):
            Run.open(tmp_path / "run", CONFIG, **refused)
    del first
    gc.collect()
    assert is_locked(tmp_path / "run")
    assert second.resume
    del second
    gc.collect()
    assert not is_locked(tmp_path / "run")


def test_run_that_is_moved_aside_leaves_its_lock_to_the_new_one(tmp_path):
    runs = [Run.open(tmp_path / "run", CONFIG)]
    runs[0].record_data({"seed": 0})
    runs.append(Run.open(tmp_path / "run", CONFIG, overwrite=True))
    assert is_locked(tmp_path / "run")
    assert not is_locked(tmp_path / "run.1")


def test_folder_that_was_deleted_is_locked_again(tmp_path):
    runs = [Run.open(tmp_path / "run", CONFIG)]
    shutil.rmtree(tmp_path / "run")
    runs.append(Run.open(tmp_path / "run", CONFIG))
    assert is_locked(tmp_path / "run")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_used_with_a_warning(code, tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    Run.open(tmp_path / "run", CONFIG).record_data({"seed": 0})
    assert Run.open(tmp_path / "run", CONFIG, resume=True).resume
    found = f"the file system of {tmp_path / 'run'} has no locks: start no other run in this folder"
    assert caplog.messages == [found] * 2


def test_lock_that_cannot_be_written_is_an_error_of_the_folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match="Cannot write into .*run: Input/output error"):
        Run.open(tmp_path / "run", CONFIG)


def test_lock_that_says_nothing_still_holds(tmp_path):
    Run.open(tmp_path / "run", CONFIG)
    gc.collect()
    with (tmp_path / "run/.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use by a process that has not yet said which"):
            Run.open(tmp_path / "run", CONFIG)
