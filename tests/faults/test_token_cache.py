"""Whatever happens to cached token ids, they are right: damaged files are made again, and what is whole is used."""

import hashlib
import os
import resource
import signal
import time
from contextlib import ExitStack

import numpy as np
import pytest

from nlptl.training import token_cache
from nlptl.training.cache import FeatureCache, entries
from tests import processes
from tests.faults import token_worker as worker

WORKER = worker.__file__
ALL = len(worker.TEXTS)
FEW = 2
"""Texts that are tokenized in any case: the first one, to compare, and an empty one, for the key."""


@pytest.fixture
def tokenize(tiny_bert, monkeypatch):
    """Return a function that tokenizes the texts with a cache: their ids, and the number of texts it tokenized."""
    for owner, name in ((token_cache, "MIN_CHARACTERS"), (token_cache, "BATCHES_BETWEEN_MEETINGS")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(token_cache, "TEXTS_PER_CALL", 0)
    worker.shrink()
    return lambda cache=None: worker.tokenize(tiny_bert, FeatureCache(gigabytes=1) if cache is None else cache)


@pytest.fixture
def expected(tiny_bert):
    """Return the token ids as they are without a cache."""
    return worker.tokenize(tiny_bert, None)[0]


@pytest.fixture
def parts(tokenize, feature_cache):
    """Return the files of a cache that has been filled: ids, offsets."""
    assert tokenize()[1] == ALL + FEW
    found = sorted((feature_cache / "features").glob("*/*.int*"))
    assert len(found) == 2
    return found


def is_same(tokens, expected):
    return np.array_equal(tokens.ids, expected.ids) and np.array_equal(tokens.offsets, expected.offsets)


DAMAGES = {
    "truncated": lambda path, content: path.write_bytes(content[:-1]),
    "empty": lambda path, content: path.write_bytes(b""),
    "first bit": lambda path, content: path.write_bytes(bytes([content[0] ^ 1]) + content[1:]),
    "last bit": lambda path, content: path.write_bytes(content[:-1] + bytes([content[-1] ^ 128])),
    "gone": lambda path, content: path.unlink(),
}


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_file_is_made_again(how, part, parts, tokenize, expected, caplog):
    content = parts[part].read_bytes()
    DAMAGES[how](parts[part], content)
    tokens, calls = tokenize()
    assert is_same(tokens, expected)
    assert calls == ALL + FEW
    assert (f"removing the cached file {parts[part]} and computing it again: it is damaged" in caplog.text) == (
        how != "gone"
    )
    assert parts[part].read_bytes() == content
    assert tokenize()[1] == FEW


def plant(path, change):
    """Replace a file by one with another array, under the name that nlptl would give it."""
    array = change(np.fromfile(path, path.suffix[1:]))
    path.unlink()
    digest = hashlib.sha256(f"{path.parent.name}/{int(path.name[:6])}/".encode() + array.tobytes())
    path.with_name(f"{path.name[:6]}-{digest.hexdigest()}.{array.dtype}").write_bytes(array.tobytes())


PLANTED = {
    "other ids": (0, lambda ids: np.where(ids == 2, 5, ids)),
    "fewer ids": (0, lambda ids: ids[:-1]),
    "ids of another type": (0, lambda ids: ids.astype(np.int64)),
    "fewer texts": (1, lambda table: table[1:]),
    "texts that begin later": (1, lambda table: np.concatenate([[1], table[1:]])),
    "texts of negative length": (1, lambda table: np.concatenate([table[:2], table[5:6], table[3:]])),
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_file_with_the_right_hash_in_its_name_is_not_used(what, parts, tokenize, expected, caplog):
    part, change = PLANTED[what]
    plant(parts[part], change)
    assert is_same(tokenize()[0], expected)
    assert "removing " in caplog.text
    assert all(path.exists() for path in parts)
    tokens, calls = tokenize()
    assert is_same(tokens, expected)
    assert calls == FEW


def test_full_disk(tokenize, expected, caplog, feature_cache):
    """No file may grow beyond half of the ids, as if the disk ended there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (expected.ids.nbytes // 2, before[1]))
    try:
        tokens, calls = tokenize()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_same(tokens, expected)
    assert calls > ALL + FEW
    (message,) = caplog.messages
    assert message.startswith(
        f"continuing without writing to the cache in {feature_cache}: File too large. Free some space,"
    )
    assert [path.name for path in feature_cache.rglob("*") if path.is_file()] == ["entry.json"]
    assert is_same(tokenize()[0], expected)


def test_cache_that_cannot_be_a_folder(tokenize, expected, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("NLPTL_CACHE", str(tmp_path / "file"))
    assert is_same(tokenize()[0], expected)
    (message,) = caplog.messages
    assert "continuing without writing to the cache" in message


def test_files_of_another_user_are_not_used(parts, tokenize, expected, monkeypatch, caplog):
    monkeypatch.setattr(os, "geteuid", lambda: parts[0].stat().st_uid + 1)
    tokens, calls = tokenize()
    assert is_same(tokens, expected)
    assert calls > ALL
    assert tokens.ids.flags.owndata
    assert "they belong to another user" in caplog.text


@pytest.fixture
def start(tiny_bert, feature_cache):
    """Return a function that starts a worker process, which ends with the test."""
    with ExitStack() as stack:

        def run(output, *, seconds=0.0, ready=()):
            output.mkdir(exist_ok=True)
            words = [WORKER, tiny_bert, output, seconds, *ready]
            return stack.enter_context(processes.Process(words, stdout=processes.PIPE, stderr=processes.STDOUT))

        yield run


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)


def finish(process):
    said, _ = process.communicate()
    assert process.returncode == 0, said


def test_killed_tokenizing_leaves_nothing_that_is_used(start, tokenize, expected, feature_cache, tmp_path):
    process = start(tmp_path / "killed", seconds=0.05)
    wait_for(lambda: len(list(feature_cache.rglob(".nlptl-*.tmp"))) == 1, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(feature_cache.rglob("*.int*"))
    tokens, calls = tokenize()
    assert is_same(tokens, expected)
    assert calls == ALL + FEW
    assert tokenize()[1] == FEW


@pytest.mark.multiprocess
def test_two_runs_at_once_build_one_entry(start, tokenize, expected, feature_cache, tmp_path):
    ready = tmp_path / "ready"
    outputs = [tmp_path / name for name in ("one", "two")]
    started = [start(output, seconds=0.01, ready=(ready,)) for output in outputs]
    for output, process in zip(outputs, started, strict=True):
        wait_for(lambda output=output: any(output.iterdir()), process)
    ready.touch()
    for output, process in zip(outputs, started, strict=True):
        finish(process)
        with np.load(output / "0.npz") as found:
            assert np.array_equal(found["ids"], expected.ids)
            assert np.array_equal(found["offsets"], expected.offsets)
    assert len(entries(feature_cache)) == 1
    assert len([path for path in feature_cache.rglob("*") if path.is_file()]) == 3
    assert tokenize()[1] == FEW


@pytest.mark.multiprocess
def test_processes_of_a_machine_share_what_its_main_process_makes(
    tiny_bert, tokenize, expected, feature_cache, tmp_path
):
    """Two machines have a cache folder each; one has been filled before, so that its processes wait for the other."""
    folders = [feature_cache, tmp_path / "other cache"]
    tokenize()
    output = tmp_path / "output"
    output.mkdir()
    codes, said = processes.launch(
        [WORKER, tiny_bert, output, 0.01],
        processes=4,
        each=lambda rank: {"NLPTL_CACHE": str(folders[rank // 2]), "LOCAL_RANK": str(rank % 2)},
        LOCAL_WORLD_SIZE="2",
    )
    assert codes == [0] * 4, said
    for i in range(4):
        with np.load(output / f"{i}.npz") as found:
            assert np.array_equal(found["ids"], expected.ids)
            assert np.array_equal(found["offsets"], expected.offsets)
            assert found["is_mapped"]
            is_maker = i == 2
            assert found["calls"] == (ALL + FEW if is_maker else FEW)
    assert [len(entries(folder)) for folder in folders] == [1, 1]
