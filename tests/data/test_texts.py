"""Texts in a file: read like a list, and nothing else about the data is different."""

import gc
import resource
from array import array
from pathlib import Path

import numpy as np
import pytest

from nlptl.data import texts as module
from nlptl.data.sources import read_file
from nlptl.data.splits import NAMES, load_splits
from nlptl.data.texts import TEXTS_AT_ONCE, Concatenation, TextCollector, Texts
from nlptl.errors import DataError

WORDS = ["", "a", "film", "\u00e9t\u00e9", "two\nlines", "\U0001f600 and more", " "]
MANY = [f"{WORDS[i % 7]} {i}" for i in range(2 * TEXTS_AT_ONCE + 3)]


@pytest.fixture
def into_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put texts into files from a few on."""
    monkeypatch.setattr(module, "LARGE_BYTES", 500)


def collect(texts):
    collector = TextCollector()
    for start in range(0, len(texts), 100):
        collector.extend(texts[start : start + 100])
    return collector.finish()


def test_few_texts_are_a_list():
    assert type(collect(MANY)) is list
    assert collect(MANY) == MANY
    assert collect([]) == []


def test_many_texts_are_read_like_a_list(into_files: None):
    found = collect(MANY)
    assert isinstance(found, Texts)
    assert len(found) == len(MANY)
    assert list(found) == MANY
    assert found[5:1500:7] == MANY[5:1500:7]
    assert [found[i] for i in (0, 3, -1, np.int64(7))] == [MANY[i] for i in (0, 3, -1, 7)]
    assert found == MANY
    assert MANY.__eq__(found) is NotImplemented
    assert found == collect(MANY)
    assert found != MANY[:-1]
    assert found != [*MANY[:-1], "x"]
    assert MANY[4] in found
    with pytest.raises(IndexError):
        found[len(MANY)]


def test_taken_texts_are_over_the_same_file(into_files: None):
    found = collect(MANY).take(np.array([7, 3, 3, -1])).take(np.array([3, 0, 1]))
    assert found == [MANY[-1], MANY[7], MANY[3]]


def test_the_file_has_no_name(into_files: None, feature_cache: Path):
    found = collect(MANY)
    assert list(feature_cache.iterdir()) == []
    assert found == MANY


def test_full_disk(into_files: None, feature_cache: Path, caplog: pytest.LogCaptureFixture):
    """No file may grow beyond half of the texts, as if the disk ended there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (sum(len(text.encode()) for text in MANY) // 2, before[1]))
    try:
        found = collect(MANY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == MANY
    assert caplog.messages == [
        f"keeping the texts in memory, since they cannot be written to {feature_cache}: File too large. Free some "
        "space, fix the permissions, or set NLPTL_CACHE to another folder"
    ]


def test_folder_that_cannot_be_made(
    into_files: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("NLPTL_CACHE", str(tmp_path / "file"))
    assert collect(MANY) == MANY
    (message,) = caplog.messages
    assert f"cannot be written to {tmp_path / 'file'}: File exists. Free" in message


def write(path: Path, count: int) -> Path:
    lines = [f"A film number {i % 37},{('x', 'y', 'z')[i % 3]}" for i in range(count)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


@pytest.mark.parametrize("max_examples", [None, 300])
def test_splits_and_findings_are_those_of_lists(max_examples: int | None, tmp_path: Path, monkeypatch, caplog):
    path = write(tmp_path / "a.csv", 1200)
    expected, said = load_splits(path, max_examples=max_examples), list(caplog.messages)
    caplog.clear()
    monkeypatch.setattr(module, "LARGE_BYTES", 500)
    found = load_splits(path, max_examples=max_examples)
    assert caplog.messages == said != []
    assert (found.labels, found.findings) == (expected.labels, expected.findings)
    for name in NAMES:
        assert list(found[name].rows) == list(expected[name].rows)
        assert isinstance(found[name].texts, Texts)
        assert isinstance(found[name].rows, array)
        assert type(expected[name].texts) is type(expected[name].rows) is list
        assert found[name].texts == expected[name].texts
        assert found[name].labels == expected[name].labels
        assert (found[name].source, found[name].split) == (expected[name].source, expected[name].split)


def test_shards_are_put_together(into_files: None, tmp_path: Path):
    for part in range(2):
        write(tmp_path / f"train-0000{part}-of-00002.csv", 40 + part)
    splits = load_splits(tmp_path)
    assert sorted(row for name in NAMES for row in splits[name].rows) == list(range(1, 82))
    text_of = dict(zip(splits.train.rows, splits.train.texts, strict=True))
    assert text_of == {row: f"A film number {((row - 1) % 40 if row <= 80 else 40) % 37}" for row in text_of}


def test_texts_of_a_file_without_labels(into_files: None, tmp_path: Path):
    examples = read_file(write(tmp_path / "a.csv", 50), with_labels=False)
    assert examples.labels == examples.select([3, 1]).labels == []
    assert examples.select([3, 1]).texts == ["A film number 3", "A film number 1"]
    assert examples.select([3, 1]).rows == array("q", [5, 3])


def test_reading_that_fails_leaves_no_file_open(into_files: None, tmp_path: Path):
    path = write(tmp_path / "a.csv", 3000)
    path.write_text(path.read_text() + "one field\n")
    with pytest.raises(DataError, match="found 1 in row 3002"):
        read_file(path)
    gc.collect()


def test_texts_as_bytes_differ_when_the_texts_do():
    texts = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["", "abc"], [], ["1:a"], ["1", "a"], ["\ud800"]]
    assert len({b"".join(Concatenation(each)) for each in texts}) == len(texts)


def test_texts_as_bytes_do_not_depend_on_where_they_are(into_files: None):
    expected = "".join(f"{len(text)}:{text}" for text in [*MANY, "x"]).encode()
    for texts in (MANY, collect(MANY)):
        pieces = Concatenation(texts, ["x"])
        assert [b"".join(pieces) for _ in range(2)] == [expected] * 2
        assert len(list(pieces)) == 4
