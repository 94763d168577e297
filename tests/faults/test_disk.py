"""A disk that fills up while a model trains."""

import json
import sys
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("disk_worker.py")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a disk in a namespace of Linux")
def test_full_disk_during_a_save(tiny_bert, toy_csv, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = processes.run([WORKER, tiny_bert, toy_csv, disk])
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    if last == "no disk":
        pytest.skip("needs a user namespace in which a tmpfs can be mounted")
    code, step, code_when_resumed = json.loads(last)
    assert (code, step, code_when_resumed) == (6, 3, 0)
    assert "Cannot write the checkpoint " in done.stderr
    assert "No space left on device. Free some space or fix the permissions, then continue with --resume" in done.stderr
