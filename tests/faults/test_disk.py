"""A disk that fills up while a model trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("disk_worker.py")
ALONE = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount(folder: Path) -> bool:
    """Return whether a test may have a small disk of its own."""
    try:
        return (
            subprocess.run([*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode == 0
        )
    except FileNotFoundError:
        return False


def test_full_disk_during_a_save(tiny_bert, toy_csv, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("needs a user namespace in which a tmpfs can be mounted")
    mount = f"mount -t tmpfs -o size=6m tmpfs {disk}"
    command = f"{sys.executable} {WORKER} {tiny_bert} {toy_csv} {disk}"
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "NLPTL_CACHE": str(tmp_path / "cache")}
    command = [*ALONE, "sh", "-c", f"{mount} && {command}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, step, code_when_resumed = json.loads(done.stdout.splitlines()[-1])
    assert (code, step, code_when_resumed) == (6, 3, 0)
    assert "Expected to write the checkpoint " in done.stderr
    assert "No space left on device. Free some space or fix the permissions, then continue with --resume" in done.stderr
