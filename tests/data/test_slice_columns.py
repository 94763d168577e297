import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlptl.data.columns import column_values
from nlptl.data.leakage import find_leaking_words
from nlptl.data.sources import Examples, join, read_file
from nlptl.data.splits import load_splits
from nlptl.errors import DataError


def write_rows(path, rows, columns):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def test_values_as_strings():
    values = ["news ", "", None, float("nan"), 3, 2.5, True, np.int64(7), ["a"]]
    assert column_values(values) == ["news", "", "", "", "3", "2.5", "True", "7", "['a']"]
    assert column_values([1, 0, 5], class_names=["no", "yes"]) == ["yes", "no", "5"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_are_read_from_every_kind_of_file(tmp_path, suffix):
    rows = [("a film", "x", "news", 3), ("a plot", "y", None, 4)]
    path = tmp_path / f"data{suffix}"
    names = ("text", "label", "genre", "stars")
    match suffix:
        case ".csv":
            write_rows(path, rows, names)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
        case _:
            pq.write_table(pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), path)
    examples = read_file(path, slice_columns=("stars", "genre"))
    assert examples.columns == {"stars": ["3", "4"], "genre": ["news", ""]}
    assert read_file(path).columns == {}


def test_values_stay_with_their_texts(tmp_path):
    rows = [(f"text {i}", "ab"[i % 2], f"value {i}") for i in range(60)]
    for number, part in enumerate((rows[:30], rows[30:])):
        write_rows(tmp_path / f"train-0000{number}-of-00002.csv", part, ("text", "label", "genre"))
    splits = load_splits(tmp_path, slice_columns=("genre",), max_examples=20)
    for name in ("train", "validation", "test"):
        texts, values = splits[name].texts, splits[name].columns["genre"]
        assert len(texts) > 0
        assert values == [text.replace("text", "value") for text in texts]
    examples = splits["test"].select([1, 0])
    assert examples.columns["genre"] == [text.replace("text", "value") for text in examples.texts]
    joined = join([splits["test"], examples])
    assert joined.columns["genre"] == [text.replace("text", "value") for text in joined.texts]


def test_a_column_that_holds_the_texts(tmp_path):
    write_rows(tmp_path / "a.csv", [("a", "b", "c")], ("text", "label", "genre"))
    with pytest.raises(
        DataError, match="Expected a column of its own for each slice .*found 'text'.*--slice-columns, or"
    ):
        read_file(tmp_path / "a.csv", slice_columns=("genre", "text"))


@pytest.mark.parametrize(
    ("shown", "quoted"),
    [("whole", ["'jane'", "'offer'"]), ("none", ["a word in"])],
)
def test_findings_quote_what_may_be_shown(shown, quoted):
    texts = [f"text {'offer jane@x.com' if i % 2 else ''} number {i}" for i in range(200)]
    train = Examples(texts, ["spam" if i % 2 else "ham" for i in range(200)], list(range(200)))
    (found,) = find_leaking_words(train, texts_shown=shown)
    assert all(word in found.message for word in quoted)
    assert ("jane" in found.message) == (shown == "whole")
    assert ("offer" in found.message) == (shown != "none")
    assert "100 texts, all 'spam'" in found.message
