"""Data sets in folders: as the Hub and the datasets library lay them out, and splits without labels."""

import json
import logging
from pathlib import Path

import datasets
import pytest

from nlptl.config import Columns
from nlptl.data.splits import load_splits, read_splits
from nlptl.errors import DataError

FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def dataset(name: str, count: int = 24) -> datasets.Dataset:
    values = {"text": [f"{name} film {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
    return datasets.Dataset.from_dict(values, features=FEATURES)


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def parquet(path: Path, name: str, count: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(name, count).to_parquet(path)


def sizes(folder: Path) -> dict[str, int]:
    splits = read_splits(folder)
    assert all(set(examples.labels) == {"negative", "positive"} for examples in splits.values())
    return {split: len(examples) for split, examples in splits.items()}


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00001-a09b74b3ef9c3b56", "test-00000-of-00001-60e95d9b0d4d1f8e"],
        ["data/train-00000-of-00001", "data/test-00000-of-00001-60e95d9b0d4d1f8e"],
        ["train/0000", "test/0000"],
        ["default/train/0000", "default/test/0000"],
        ["plain_text/train-00000-of-00001", "plain_text/test-00000-of-00001"],
        ["train/anything", "test/else"],
    ],
)
def test_layouts_of_the_hub(names: list[str], tmp_path: Path):
    for name, count in zip(names, (24, 6), strict=True):
        parquet(tmp_path / f"{name}.parquet", name, count)
    write(tmp_path / "README.md", "x")
    parquet(tmp_path / ".cache" / "train.parquet", "hidden")
    assert sizes(tmp_path) == {"train": 24, "test": 6}


@pytest.mark.parametrize(
    "name", ["train-{:05}-of-00003-{:016x}.parquet", "data/train-{:05}-of-00003.parquet", "train/{:04}.parquet"]
)
def test_shards_are_joined_in_order(name: str, tmp_path: Path):
    for i in range(3):
        parquet(tmp_path / name.format(i, 7 - i), f"part {i}", 4)
    assert read_splits(tmp_path)["train"].texts == [f"part {i} film {j}" for i in range(3) for j in range(4)]
    (tmp_path / name.format(1, 6)).unlink()
    with pytest.raises(DataError, match="Expected 3 parts of train in .*found 2"):
        read_splits(tmp_path)


def test_what_save_to_disk_writes(tmp_path: Path):
    whole = datasets.DatasetDict(train=dataset("a"), validation=dataset("b", 4), test=dataset("c", 6))
    whole.save_to_disk(tmp_path / "all", num_shards={"train": 3, "validation": 1, "test": 1})
    write(tmp_path / "all" / "train" / "cache-1234.arrow", "left behind by map()")
    assert sizes(tmp_path / "all") == {"train": 24, "validation": 4, "test": 6}
    assert read_splits(tmp_path / "all")["train"].texts == whole["train"]["text"]
    chosen = dataset("a").select([4, 1, 2])
    chosen.save_to_disk(tmp_path / "one")
    read = read_splits(tmp_path / "one")
    assert (list(read), read["train"].texts) == (["train"], chosen["text"])
    assert read["train"].labels == ["negative", "positive", "negative"]


@pytest.mark.parametrize(
    "state",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"_data_files": [{"filename": "../a.arrow"}]}),
        json.dumps({"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}),
    ],
)
def test_a_saved_data_set_that_does_not_list_its_files(state: str, tmp_path: Path):
    write(tmp_path / "state.json", state)
    with pytest.raises(DataError, match="found a state.json that does not list its files. Save it again"):
        read_splits(tmp_path)


def test_several_data_sets_in_a_folder(tmp_path: Path):
    for name in ("cola", "sst2"):
        parquet(tmp_path / name / "train-00000-of-00001.parquet", name)
    with pytest.raises(DataError, match=r"found cola, sst2. Pass one of its data sets, such as .*cola"):
        read_splits(tmp_path)


LABELLED = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40))


@pytest.mark.parametrize("label", ["-1", "", " -1 "])
@pytest.mark.parametrize("name", ["test.csv", "validation.csv"])
def test_a_split_without_labels_is_left_out(label: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / name, "text,label\n" + "".join(f"other {i},{label}\n" for i in range(9)))
    splits = load_splits(tmp_path)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [32, 4, 4]
    assert f"{name} is left out: all its labels are -1 or missing" in caplog.text


def test_null_labels_and_lists_of_them(tmp_path: Path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("int64")})
    dataset("a").to_parquet(tmp_path / "train.parquet")
    unlabelled = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [None, None]}, features=features)
    unlabelled.to_parquet(tmp_path / "test.parquet")
    assert list(read_splits(tmp_path)) == ["train"]
    write(tmp_path / "b" / "train.jsonl", '{"tokens": ["a", "b"], "tags": [0, 1]}\n')
    write(tmp_path / "b" / "test.jsonl", '{"tokens": ["a", "b"], "tags": [-1, -1]}\n')
    assert list(read_splits(tmp_path / "b", task="tokens")) == ["train"]


def test_one_label_is_enough(tmp_path: Path):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / "test.csv", "text,label\na,-1\nb,a\n")
    assert read_splits(tmp_path)["test"].labels == ["-1", "a"]


@pytest.mark.parametrize(
    ("train", "test", "columns"),
    [
        ("id,text,target", "id,text", Columns()),
        ("id,text,target", "id,text", Columns(text_column="text", label_column="target")),
        ("text,label,category", "text,category", Columns()),
        ("id,comment,toxic,insult", "id,comment", Columns(text_column="comment", label_columns=("toxic", "insult"))),
    ],
)
def test_a_test_split_without_a_label_column(train, test, columns, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name, header in (("train", train), ("test", test)):
        names = header.split(",")
        rows = [
            ",".join(f"{i % 2}" if each not in ("id", "text", "comment") else f"{each} {i}" for each in names)
            for i in range(20)
        ]
        write(tmp_path / f"{name}.csv", "\n".join([header, *rows]))
    write(tmp_path / "sample_submission.csv", "id,target\n0,0\n")
    splits = read_splits(tmp_path, columns, task="multi_label" if columns.label_columns else "single_label")
    assert list(splits) == ["train"]
    label = (columns.label_columns or (columns.label_column or train.split(",")[2 if "id" in train else 1],))[0]
    assert f"test.csv is left out: it has no column {label!r}, which holds the labels of train" in caplog.text
    assert "sample_submission.csv is left out: neither train, validation nor test" in caplog.text


def test_a_column_that_train_lacks_is_not_proposed_as_label(tmp_path: Path):
    write(tmp_path / "train.csv", LABELLED)
    write(tmp_path / "test.csv", "text,source\na,web\nb,mail\n")
    message = (
        "Expected a label column 'label' in .*test.csv, as in train, found 'text', 'source'. If 'source' holds the "
        "labels, rename it. If there are no labels, move the file elsewhere, .*nlptl predict"
    )
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path)
    write(tmp_path / "test.csv", "text,category\na,b\n")  # found by its name, and not in train
    assert read_splits(tmp_path)["test"].labels == ["b"]


def test_settings_of_csv_files_go_for_all_files_of_a_folder(tmp_path: Path):
    for name in ("train", "test"):
        write(tmp_path / f"{name}.csv", LABELLED.replace(",", "^").split("\n", 1)[1])
    splits = load_splits(tmp_path, separator="^", header=False, text_column="1", label_column="2")
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [36, 4, 40]
