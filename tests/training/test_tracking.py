"""Records for programs, lines for people, and neither twice after an interruption."""

import json
import logging

import pytest

from nlptl import ResourceError, UntrustedFileError
from nlptl.training.tracking import Tracker


def track(path, *, first_step=0, steps=(), is_main_process=True):
    tracker = Tracker(path, num_steps=9, first_step=first_step, is_main_process=is_main_process)
    for step in steps:
        tracker.advance(loss=0.5)
        tracker.record(step=step, loss=step / 2)


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    track(path, steps=(1, 2))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (second["step"], second["loss"]) == (2, 1.0)
    assert 0 <= first["seconds"] <= second["seconds"]


def test_records_after_the_first_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    track(path, steps=(1, 2, 3, 4))
    track(path, first_step=2, steps=(3,))
    assert steps_in(path) == [1, 2, 3]
    track(path, first_step=0, steps=(1,))
    assert steps_in(path) == [1]


def test_torn_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for torn in ('{"step": 3', '{"step": 3}', ""):
        track(path, steps=(1, 2))
        with path.open("a") as file:
            file.write(torn)
        track(path, first_step=4)
        assert steps_in(path) == [1, 2]


def test_numbers_that_json_lacks_become_null(tmp_path):
    tracker = Tracker(tmp_path / "m.jsonl", num_steps=1, first_step=0, is_main_process=True)
    tracker.record(step=1, loss=float("nan"), gradient_norm=float("inf"))
    assert json.loads((tmp_path / "m.jsonl").read_text()) | {"seconds": 0} == {
        "step": 1,
        "loss": None,
        "gradient_norm": None,
        "seconds": 0,
    }


def test_other_processes_write_nothing(tmp_path):
    track(tmp_path / "metrics.jsonl", steps=(1,), is_main_process=False)
    track(None, steps=(1,))
    assert list(tmp_path.iterdir()) == []


def test_lines_are_logged(caplog):
    caplog.set_level(logging.INFO)
    Tracker(None, num_steps=1, first_step=0, is_main_process=True).say("epoch 1")
    assert caplog.messages == ["epoch 1"]


@pytest.mark.parametrize("content", [b"{}\n", b"{not json}\n", b"\xff}\n"])
def test_damaged_records_are_named(content, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UntrustedFileError, match=r"Cannot read the records of the run in .*metrics\.jsonl"):
        Tracker(tmp_path / "metrics.jsonl", num_steps=4, first_step=2, is_main_process=True)


def test_records_that_cannot_be_written_are_named(tmp_path):
    tracker = Tracker(tmp_path / "metrics.jsonl", num_steps=4, first_step=0, is_main_process=True)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ResourceError, match=r"Cannot write .*metrics\.jsonl: Is a directory"):
        tracker.record(step=1)
