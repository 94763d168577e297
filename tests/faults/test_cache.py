"""Whatever happens to the cache, features are right: damaged files are computed again, and what is whole is used."""

import hashlib
import logging
import os
import resource
import signal
import time
from contextlib import ExitStack

import pytest
import torch
from safetensors.torch import load_file

from nlptl.training import encoding
from nlptl.training.cache import STALE_SECONDS, FeatureCache, entries
from tests import processes
from tests.faults import cache_worker as worker

WORKER = worker.__file__
PARTS, CALLS = worker.PARTS, worker.CALLS


@pytest.fixture
def encode(tiny_bert, monkeypatch):
    """Return a function that encodes the texts with a cache: their features, and the number of calls of the encoder."""
    for (owner, name), value in worker.SMALL.items():
        monkeypatch.setattr(owner, name, value)
    return lambda cache=None: worker.encode(tiny_bert, FeatureCache(gigabytes=1) if cache is None else cache)


@pytest.fixture
def expected(tiny_bert, monkeypatch):
    """Return the features as they are without a cache."""
    for (owner, name), value in worker.SMALL.items():
        monkeypatch.setattr(owner, name, value)
    return worker.encode(tiny_bert, None)[0]


@pytest.fixture
def parts(encode, feature_cache):
    """Return the files of a cache that has been filled, in their order."""
    assert encode()[1] == CALLS
    found = sorted((feature_cache / "features").glob("*/*.float32"))
    assert len(found) == PARTS
    return found


def plant(path, content, dtype="float32"):
    """Replace `path` by a file with `content` under the name that nlptl would give it."""
    path.unlink()
    digest = hashlib.sha256(f"{path.parent.name}/{int(path.name[:6])}/".encode() + content)
    target = path.with_name(f"{path.name[:6]}-{digest.hexdigest()}.{dtype}")
    target.write_bytes(content)
    return target


DAMAGES = {
    "truncated": lambda path, content: path.write_bytes(content[:-1]),
    "half": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "empty": lambda path, content: path.write_bytes(b""),
    "longer": lambda path, content: path.write_bytes(content + b"\0"),
    "first bit": lambda path, content: path.write_bytes(bytes([content[0] ^ 1]) + content[1:]),
    "last bit": lambda path, content: path.write_bytes(content[:-1] + bytes([content[-1] ^ 128])),
    "another file under its name": lambda path, content: path.write_bytes(b"\x80\x04N."),
}


@pytest.mark.parametrize("part", [0, PARTS - 1])
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_part_is_computed_again(how, part, parts, encode, expected, caplog):
    content = parts[part].read_bytes()
    DAMAGES[how](parts[part], content)
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == (2 if part == 0 else 1)
    assert f"removing the cached file {parts[part]} and computing it again: it is damaged" in caplog.text
    assert parts[part].read_bytes() == content
    assert encode()[1] == 0


PLANTED = {
    "a pickle": lambda content: (b"cos\nabort\n(tR.", "float32"),
    "nothing": lambda content: (b"", "float32"),
    "fewer numbers": lambda content: (content[:-4], "float32"),
    "another type": lambda content: (content, "float64"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_file_with_the_right_hash_in_its_name_is_not_used(what, parts, encode, expected, caplog):
    planted = plant(parts[0], *PLANTED[what](parts[0].read_bytes()))
    found, calls = encode()
    assert torch.equal(found, expected)
    assert calls == 2
    assert f"removing the cached file {planted} and computing it again: " in caplog.text
    assert not planted.exists()
    assert parts[0].exists()


def test_planted_files_are_named_as_nlptl_names_them(parts, encode, expected):
    content = parts[0].read_bytes()
    assert plant(parts[0], content) == parts[0]
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == 0


def test_parts_in_each_others_place_are_not_used(parts, encode, expected, caplog):
    first, second = parts[:2]
    first.rename(first.with_name("aside"))
    second.rename(second.with_name(f"000000{second.name[6:]}"))
    first.with_name("aside").rename(first.with_name(f"000001{first.name[6:]}"))
    assert torch.equal(encode()[0], expected)
    assert caplog.text.count("it is damaged") == 2


def test_features_of_another_entry_are_not_used(parts, encode, expected, caplog):
    for path in parts:
        renamed = path.parent.with_name("a" * 64)
        renamed.mkdir(exist_ok=True)
        path.rename(renamed / path.name)
    cache = FeatureCache(gigabytes=1)
    assert [cache.read("a" * 64, part, shape=(60, None), dtype="float32") for part in range(PARTS)] == [None] * PARTS
    assert caplog.text.count("it is damaged") == PARTS
    assert torch.equal(encode()[0], expected)


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_plain_file_is_not_read(kind, parts, encode, expected, caplog, tmp_path):
    parts[0].rename(tmp_path / "elsewhere")
    if kind == "folder":
        parts[0].mkdir()
    elif kind == "link":
        parts[0].symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(parts[0])
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == 2
    assert "it is not a regular file" in caplog.text
    assert (tmp_path / "elsewhere").is_file()


def test_files_of_another_user_are_not_used(parts, encode, expected, monkeypatch, caplog):
    monkeypatch.setattr(os, "geteuid", lambda: parts[0].stat().st_uid + 1)
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == CALLS
    assert [message for message in caplog.messages if "belong to another user" in message] == [
        f"not using cached files such as {parts[0]}: they belong to another user"
    ]


def test_other_files_in_the_folder_do_not_matter(parts, encode, feature_cache):
    entry = parts[0].parent
    (entry / "entry.json").write_text("{")
    (entry / "000000-.float32").write_bytes(b"x")
    (entry / "notes").mkdir()
    (entry.parent / "notes").write_text("x")
    assert encode()[1] == 0


@pytest.mark.parametrize("calls_before", range(1, CALLS + 1))
def test_interrupted_encoding_goes_on_from_the_parts_that_are_there(
    calls_before, encode, expected, monkeypatch, feature_cache
):
    class Stopped(BaseException):
        """No error that anything catches."""

    real, made = encoding.collate, []

    def collate(*args, **kwargs):
        made.append(1)
        if len(made) == calls_before:
            raise Stopped
        return real(*args, **kwargs)

    monkeypatch.setattr(encoding, "collate", collate)
    with pytest.raises(Stopped):
        encode()
    monkeypatch.setattr(encoding, "collate", real)
    num_done = len(list(feature_cache.rglob("*.float32")))
    assert num_done == (calls_before - 1) // 2
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == CALLS - 2 * num_done


def test_partly_cached_split_is_told_of(parts, encode, caplog, feature_cache):
    parts[-1].unlink()
    caplog.set_level(logging.INFO)
    encode()
    assert any(line.endswith(f"of 60 texts from the cache in {feature_cache}") for line in caplog.messages)
    assert any("running the frozen encoder once over the other " in line for line in caplog.messages)


def test_file_left_by_a_killed_writer_is_not_read_and_goes_in_time(parts, encode):
    aside = [parts[0].with_name(f".nlptl-{name}.tmp") for name in ("old", "new")]
    for path in aside:
        path.write_bytes(parts[0].read_bytes())
    then = time.time() - STALE_SECONDS - 1
    os.utime(aside[0], (then, then))
    assert encode()[1] == 0
    assert [path.exists() for path in aside] == [False, True]


def one_warning(caplog, reason):
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    message = record.getMessage()
    assert message.startswith("continuing without writing to the cache in ")
    assert message.endswith(
        f"{reason}. Free some space, fix the permissions, set NLPTL_CACHE to another folder, or pass --no-cache"
    )


def test_full_disk(encode, expected, caplog, feature_cache):
    """No file may grow beyond half a part, as if the disk ended there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        features, calls = encode()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(features, expected)
    assert calls == CALLS
    one_warning(caplog, "File too large")
    assert [path.name for path in feature_cache.rglob("*") if path.is_file()] == ["entry.json"]
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == CALLS
    assert encode()[1] == 0


def test_disk_that_fills_up_in_the_middle_keeps_what_is_written(encode, expected, monkeypatch, caplog, feature_cache):
    real, done = os.fsync, []

    def fsync(descriptor):
        done.append(1)
        if len(done) == 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    features, calls = encode()
    monkeypatch.setattr(os, "fsync", real)
    assert torch.equal(features, expected)
    assert calls == CALLS
    one_warning(caplog, "No space left on device")
    assert len(done) == 4
    names = sorted(path.name for path in feature_cache.rglob("*") if path.is_file())
    assert [name[:6] for name in names] == ["000000", "000001", "entry."]
    assert encode()[1] == CALLS - 4


@pytest.mark.parametrize("place", ["", "nlptl"])
def test_cache_that_cannot_be_a_folder(place, encode, expected, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("NLPTL_CACHE", str(tmp_path / "file" / place))
    assert torch.equal(encode()[0], expected)
    one_warning(caplog, "File exists" if place == "" else "Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_folder_that_may_not_be_written(mode, encode, expected, caplog, feature_cache):
    feature_cache.mkdir()
    feature_cache.chmod(mode)
    assert torch.equal(encode()[0], expected)
    one_warning(caplog, "Permission denied")
    feature_cache.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_what_is_in_a_read_only_folder_is_used(parts, encode, expected, caplog):
    parts[0].parent.chmod(0o500)
    features, calls = encode()
    parts[0].parent.chmod(0o700)
    assert torch.equal(features, expected)
    assert calls == 0
    assert caplog.messages == []


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


@pytest.mark.parametrize("num_done", [1, 3])
def test_killed_encoding_goes_on_from_the_parts_that_are_there(
    num_done, start, encode, expected, feature_cache, tmp_path
):
    process = start(tmp_path / "killed", seconds=0.05)
    wait_for(lambda: len(list(feature_cache.rglob("*.float32"))) >= num_done, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(list(feature_cache.rglob("*.float32")))
    assert num_done <= kept < PARTS
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == CALLS - 2 * kept


@pytest.mark.multiprocess
def test_two_runs_at_once_build_one_entry(start, encode, expected, feature_cache, tmp_path):
    ready = tmp_path / "ready"
    outputs = [tmp_path / name for name in ("one", "two")]
    started = [start(output, seconds=0.01, ready=(ready,)) for output in outputs]
    for output, process in zip(outputs, started, strict=True):
        wait_for(lambda output=output: any(output.iterdir()), process)
    ready.touch()
    for output, process in zip(outputs, started, strict=True):
        finish(process)
        assert torch.equal(load_file(output / "0.safetensors")["features"], expected)
    assert len(entries(feature_cache)) == 1
    names = sorted(path.name for path in feature_cache.rglob("*") if path.is_file())
    assert len(names) == PARTS + 1
    features, calls = encode()
    assert torch.equal(features, expected)
    assert calls == 0


@pytest.mark.multiprocess
def test_two_processes_share_the_work_and_the_main_one_has_the_cache(
    tiny_bert, encode, expected, feature_cache, tmp_path
):
    """Each process is given a cache folder of its own, as on two machines."""
    folders = [feature_cache, tmp_path / "other cache"]
    for turn, calls_expected in enumerate(([4, 4], [0, 0], [2, 2])):
        output = tmp_path / str(turn)
        output.mkdir()
        caches = [{"NLPTL_CACHE": str(folder)} for folder in folders]
        codes, said = processes.launch([WORKER, tiny_bert, output, 0], each=lambda rank, caches=caches: caches[rank])
        assert codes == [0, 0], said
        found = [load_file(output / f"{i}.safetensors") for i in (0, 1)]
        assert all(torch.equal(each["features"], expected) for each in found)
        assert [int(each["calls"]) for each in found] == calls_expected
        files = sorted(feature_cache.rglob("*.float32"))
        assert len(files) == PARTS
        assert not folders[1].exists()
        if turn == 1:
            files[0].unlink()
            DAMAGES["last bit"](files[-1], files[-1].read_bytes())
    assert encode()[1] == 0
