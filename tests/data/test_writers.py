"""Tables and JSON out: the formats, and what happens where they cannot be written."""

import csv
import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nlptl.data import writers
from nlptl.data.writers import SUFFIXES, check_output, write_json, write_table
from nlptl.errors import ConfigError, ResourceError

COLUMNS = {
    "row": [2, 3],
    "text": ['a "quoted", text\nof two lines', "\u00e9t\u00e9\t\U0001f642"],
    "share": [0.1 + 0.2, 1e-17],
}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".CSV", ".Parquet"])
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path):
    path = tmp_path / f"out{suffix}"
    write_table(str(path), [COLUMNS])
    if suffix.lower() == ".parquet":
        assert pq.read_table(path).to_pydict() == COLUMNS
    elif suffix.lower() in (".jsonl", ".ndjson"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert {name: [row[name] for row in rows] for name in rows[0]} == COLUMNS
    else:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t" if suffix == ".tsv" else ",")
        assert header == list(COLUMNS)
        assert [[int(a), b, float(c)] for a, b, c in rows] == [list(row) for row in zip(*COLUMNS.values(), strict=True)]
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_written_whole(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": ["\u00e9", None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": [\n    "\u00e9",\n    null\n  ]\n}\n'


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts_make_one_table(suffix: str, tmp_path: Path):
    """Also where the first of them has no value that tells a type."""
    spans = [{"label": "film", "start": 0, "share": 0.5}]
    whole = {"row": [1, 2, 3, 4], "label": [None, None, "good", None], "spans": [[], [], spans, []]}
    parts = ({name: values[i : i + 2] for name, values in whole.items()} for i in (0, 2))
    write_table(tmp_path / f"parts{suffix}", parts)
    write_table(tmp_path / f"whole{suffix}", [whole])
    if suffix == ".parquet":
        assert pq.read_table(tmp_path / "parts.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
        assert pq.read_table(tmp_path / "parts.parquet").to_pydict() == whole
    else:
        assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_an_interruption_between_parts_leaves_the_old_file_and_no_half_one(name: str, tmp_path: Path):
    write_table(tmp_path / name, [COLUMNS])
    before = (tmp_path / name).read_bytes()

    def interrupted() -> Iterator[dict[str, list[int]]]:
        yield {"row": [1]}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path / name, interrupted())
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_at_the_same_file_do_not_mix(tmp_path: Path):
    def parts() -> Iterator[dict[str, list[int]]]:
        yield {"row": [1]}
        write_table(tmp_path / "out.csv", [{"row": [7, 8, 9]}])
        assert (tmp_path / "out.csv").read_text() == "row\n7\n8\n9\n"
        yield {"row": [2]}

    write_table(tmp_path / "out.csv", parts())
    assert (tmp_path / "out.csv").read_text() == "row\n1\n2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("name", ["out.txt", "out", "-", "csv"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Expected an output file in \.csv, .*, found '.*'\. Rename it\."):
        check_output(tmp_path / name)
    with pytest.raises(ConfigError, match=r"Expected an output file in \.json, found"):
        write_json(tmp_path / name, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("none/out.csv", "no folder"),
        ("file/out.csv", "no folder"),
        ("folder.csv", "a folder of that name"),
        ("x" * 300 + "/out.csv", "File name too long"),
    ],
)
def test_places_that_cannot_be_written_are_refused(name: str, found: str, tmp_path: Path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=f"Expected to write .*, found {found}.*Pass a file in a folder"):
        write_table(tmp_path / name, [COLUMNS])


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_full_disk_leaves_the_old_file_and_no_half_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_table(tmp_path / name, [COLUMNS])
    before = (tmp_path / name).read_bytes()

    def no_space(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writers.Path, "replace", no_space)
    with pytest.raises(ResourceError, match=r"Expected to write .*, found: No space left on device\. Pass a path"):
        write_table(tmp_path / name, [COLUMNS])
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_columns_have_equal_lengths(tmp_path: Path):
    with pytest.raises(ValueError, match="shorter"):
        write_table(tmp_path / "out.csv", [{"a": [1, 2], "b": [1]}])
