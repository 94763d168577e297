"""SIGKILL at random moments: what is resumed after each ends in the bytes of a run that nothing has disturbed."""

import json
from pathlib import Path

import pytest

from tests import processes

WORKER = Path(__file__).with_name("kill_worker.py")


@pytest.mark.parametrize(
    ("seed", "wanted"), [(2, 5), *(pytest.param(*each, marks=pytest.mark.nightly) for each in ((0, 30), (1, 20)))]
)
def test_kills_at_random_moments(seed, wanted, tiny_bert, toy_csv, outcome, tmp_path):
    done = processes.run([WORKER, tiny_bert, toy_csv, tmp_path, seed, wanted])
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])
    assert sum(kills) >= wanted
    expected = outcome(tmp_path / "whole")
    for i, count in enumerate(kills):
        found = outcome(tmp_path / str(i))
        assert found == expected, f"run {i}, killed {count} times"
        leftovers = [path.name for path in (tmp_path / str(i) / "checkpoints").iterdir() if path.name.startswith(".")]
        assert leftovers == []
