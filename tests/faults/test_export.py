"""A saved model is there or is not, and the one before it stays until it is, wherever a save is stopped."""

import builtins
import errno
import io
import os

import pytest
from transformers import modeling_utils

from nlptl import Classifier, ResourceError

LABELS = ("negative", "positive")
PLACES = [
    (builtins, "open"),
    (io, "open"),
    (os, "mkdir"),
    (os, "rename"),
    (os, "rmdir"),
    (os, "unlink"),
    (modeling_utils, "safe_save_file"),
]


class Crashed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def fail_at(monkeypatch):
    """Arrange that the n-th call that touches the disk raises, or that none after it does anything; list the calls."""
    real = {place: getattr(*place) for place in PLACES}

    def arrange(count, error=None):
        calls = []

        def watch(name, function):
            def call(*args, **kwargs):
                calls.append(name)
                if error is None and len(calls) >= count:
                    raise Crashed
                if len(calls) == count:
                    raise error
                return function(*args, **kwargs)

            return call

        for place in PLACES:
            monkeypatch.setattr(*place, watch(place[1], real[place]))
        return calls

    return arrange


@pytest.fixture(scope="module")
def models(tiny_bert):
    """Return two classifiers that differ."""
    return [Classifier.from_pretrained(tiny_bert, labels=LABELS, seed=seed) for seed in (0, 1)]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None


@pytest.fixture
def saved(models, tmp_path):
    """Return the files of both models."""
    for i, model in enumerate(models):
        model.save(tmp_path / f"saved-{i}")
    return [files(tmp_path / f"saved-{i}") for i in range(2)]


@pytest.fixture(params=[False, True], ids=["first", "again"])
def targets(request, models, saved, fail_at, monkeypatch, tmp_path):
    """Return as many folders as a save touches the disk, in which a model is or is not, and what is there."""
    before = saved[0] if request.param else None

    def build(name):
        target = tmp_path / name / "model"
        target.parent.mkdir()
        if before:
            models[0].save(target)
        return target

    target = build("counted")
    calls = fail_at(0, error=Crashed())
    models[1].save(target)
    monkeypatch.undo()
    assert len(calls) > 10
    return [build(f"{i}") for i in range(len(calls))], before


def test_crash_at_every_file_operation(targets, models, saved, fail_at, monkeypatch):
    folders, before = targets
    seen = []
    for i, target in enumerate(folders):
        fail_at(i + 1)
        with pytest.raises(Crashed):
            models[1].save(target)
        monkeypatch.undo()
        seen.append(files(target))
        models[1].save(target)
        assert files(target) == saved[1]
    assert all(found in (before, None, saved[1]) for found in seen)
    assert seen[0] == before
    assert seen[-1] == saved[1]
    assert seen.count(None) == 1 or before is None  # between two renames: both are whole in a folder beside it


def test_disk_that_fails_leaves_what_was_there(targets, models, saved, fail_at, monkeypatch):
    folders, before = targets
    said = []
    for i, target in enumerate(folders):
        fail_at(i + 1, OSError(errno.EIO, "Input/output error"))
        try:
            models[1].save(target)
        except ResourceError as error:
            said.append(str(error))
        monkeypatch.undo()
        assert files(target) in (before, saved[1])
    assert all("found: [Errno 5] Input/output error. Free space or mend the permissions" in text for text in said)
    assert len(said) > len(folders) - 5  # a folder that is there may be made again, and one that is empty may stay
