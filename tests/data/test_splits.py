import logging
import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlptl.data.splits import NAMES, load_splits
from nlptl.errors import ConfigError, DataError, ResourceError


def write(path, labels, start=0, header="text,label"):
    lines = [f"text {start + i},{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture
def reviews(tmp_path):
    return write(tmp_path / "reviews.csv", ["a", "b", "b", "c"] * 50)


def test_one_file_is_split_by_class(reviews, caplog):
    caplog.set_level(logging.INFO)
    splits = load_splits(reviews)
    assert Counter(splits["train"].labels) == {"a": 40, "b": 80, "c": 40}
    for name in ("validation", "test"):
        assert Counter(splits[name].labels) == {"a": 5, "b": 10, "c": 5}
    assert splits.labels.names == ("a", "b", "c")
    assert sorted(row for name in NAMES for row in splits[name].rows) == list(range(2, 202))
    for name in NAMES:
        assert splits[name].split == name
        assert splits[name].rows == sorted(splits[name].rows)
    assert caplog.messages[-1] == f"{reviews}: 160 train, 20 validation, 20 test; labels a, b, c"


def test_split_depends_on_the_seed_alone(reviews):
    assert load_splits(reviews) == load_splits(str(reviews))
    assert load_splits(reviews, seed=1).test.rows != load_splits(reviews).test.rows


def test_split_of_a_real_sample(caplog):
    caplog.set_level(logging.INFO)
    splits = load_splits("sample:rotten_tomatoes")
    message = "rotten_tomatoes: 6,824 train, 853 validation, 853 test; labels negative, positive"
    assert caplog.messages[-1] == message
    # The data set is like this: dashes of Windows that were read as Latin-1, and two reviews that stand in it twice.
    assert {finding.kind for finding in splits.findings} == {"control_character", "near_leak", "other_language"}


def test_strict_stops_at_findings(tmp_path):
    rows = write(tmp_path / "reviews.csv", ["a", "b"] * 20)
    assert load_splits(rows, strict=True).findings == ()
    with rows.open("a") as file:
        file.write("a\ufffdb,a\n")
    assert len(load_splits(rows).findings) == 1
    with pytest.raises(DataError, match=r"without findings \(--strict\), found 1 warning:\nwarning: .*: row 42\n .*\n"):
        load_splits(rows, strict=True)


def test_unknown_split(reviews):
    with pytest.raises(ConfigError, match=r"train, validation, test\), found 'dev'"):
        load_splits(reviews)["dev"]


def test_rare_classes_stay_in_train(tmp_path):
    splits = load_splits(write(tmp_path / "a.csv", ["a"] * 20 + ["b"] * 20 + ["c"] + ["d", "d"]))
    assert "c" in splits["train"].labels
    assert "d" in splits["train"].labels
    assert {finding.kind for finding in splits.findings} >= {"small_class", "missing_class"}


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "a", "b"], ["a", "b", "c", "d"]])
def test_too_few_rows(tmp_path, labels):
    with pytest.raises(DataError, match="Expected enough rows .*Add rows"):
        load_splits(write(tmp_path / "a.csv", labels))


def test_smallest_file_that_can_be_split(tmp_path):
    splits = load_splits(write(tmp_path / "a.csv", ["a", "a", "a", "b"]))
    assert [len(splits[name]) for name in NAMES] == [2, 1, 1]


def test_folder(tmp_path):
    write(tmp_path / "train.csv", ["a", "b"] * 10)
    write(tmp_path / "dev.csv", ["a", "b"], 100)
    write(tmp_path / "test.csv", ["b", "a"], 200)
    (tmp_path / "README.md").write_text("notes")
    splits = load_splits(tmp_path)
    assert [len(splits[name]) for name in NAMES] == [20, 2, 2]
    assert splits["validation"].texts == ["text 100", "text 101"]
    assert splits.findings == ()


def test_given_test_split_is_not_touched(tmp_path):
    write(tmp_path / "train.csv", ["a", "b"] * 20)
    write(tmp_path / "test.csv", ["b", "a"], 200)
    splits = load_splits(tmp_path)
    assert [len(splits[name]) for name in NAMES] == [36, 4, 2]
    assert splits["test"].texts == ["text 200", "text 201"]


def test_folder_without_test(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path / "train.csv", ["a", "b"] * 20)
    write(tmp_path / "valid.csv", ["b", "a"], 200)
    splits = load_splits(tmp_path)
    assert [len(splits[name]) for name in NAMES] == [36, 2, 4]
    assert f"{tmp_path}: no test split: held out 4 examples of train" in caplog.messages


def test_shards(tmp_path):
    for part in range(2):
        table = pa.table({"text": [f"{part} {i}" for i in range(20)], "label": ["a", "b"] * 10})
        pq.write_table(table, tmp_path / f"train-0000{part}-of-00002.parquet")
    splits = load_splits(tmp_path)
    assert sorted(row for name in NAMES for row in splits[name].rows) == list(range(1, 41))
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="Expected 2 parts of train .*found 1: train-00001-of-00002.parquet"):
        load_splits(tmp_path)


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match="such as train.csv .*found nothing"):
        load_splits(tmp_path)
    write(tmp_path / "test.csv", ["a", "b"])
    with pytest.raises(DataError, match="such as train.csv .*found test.csv"):
        load_splits(tmp_path)
    write(tmp_path / "train.csv", ["a", "b"])
    write(tmp_path / "train.tsv", ["a", "b"])
    with pytest.raises(DataError, match=r"one file for train in .*found train.csv, train.tsv"):
        load_splits(tmp_path)


def test_columns_are_passed_on(tmp_path):
    path = write(tmp_path / "a.csv", ["a", "b"] * 10, header="review,stars")
    with pytest.raises(DataError, match="--text-column review --label-column stars"):
        load_splits(path)
    assert load_splits(path, text_column="review", label_column="stars").labels.names == ("a", "b")


def test_max_examples(reviews):
    splits = load_splits(reviews, max_examples=8)
    assert [len(splits[name]) for name in NAMES] == [8, 8, 8]
    assert all(set(splits[name].labels) == {"a", "b", "c"} for name in NAMES)
    assert Counter(load_splits(reviews, max_examples=40)["train"].labels) == {"a": 10, "b": 20, "c": 10}
    assert load_splits(reviews, max_examples=1000) == load_splits(reviews)
    for name in NAMES:
        assert set(splits[name].rows) <= set(load_splits(reviews)[name].rows)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_max_examples_too_small(reviews, count):
    with pytest.raises(ConfigError, match=f"max_examples.*found {count}"):
        load_splits(reviews, max_examples=count)


def test_findings_are_logged(tmp_path, caplog):
    write(tmp_path / "train.csv", ["a", "b"] * 20)
    write(tmp_path / "val.csv", ["a", "b"], 100)
    write(tmp_path / "test.csv", ["a", "b"], 39)
    splits = load_splits(tmp_path)
    assert [finding.kind for finding in splits.findings] == ["leak"]
    assert caplog.messages == [splits.findings[0].message]


@pytest.mark.parametrize("name", ["nope.csv", "./nope", "/no/such", "a/b/c", "~/nope", "some/data.json", "two words"])
def test_missing_files_are_no_hub_ids(name):
    with pytest.raises(DataError, match="found nothing at"):
        load_splits(name)


def test_sample_errors():
    with pytest.raises(ConfigError, match="found 'sample:nope'"):
        load_splits("sample:nope")
    with pytest.raises(ConfigError, match="Expected no columns with sample:imdb"):
        load_splits("sample:imdb", text_column="text")


def test_hub_id(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="Expected to load the data set 'someone/reviews'"):
        load_splits("someone/reviews")


def write_groups(path, count=600, size=7):
    """Write texts of authors who write `size` each, most of them about one thing."""
    draw = random.Random(0)
    rows = []
    for i in range(count):
        author = i // size
        label = "abc"[author % 3] if draw.random() < 0.8 else draw.choice("abc")
        rows.append(f"text {i} {draw.random()},{label},author {author}")
    draw.shuffle(rows)
    path.write_text("\n".join(["text,label,author", *rows]) + "\n")
    return path


def test_groups_are_never_divided(tmp_path):
    path = write_groups(tmp_path / "a.csv")
    splits = load_splits(path, group_column="author")
    groups = [set(splits[name].groups) for name in NAMES]
    assert all(map(len, groups))
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert set().union(*groups) == {f"author {i}" for i in range(86)}
    for name in ("validation", "test"):
        assert 55 <= len(splits[name]) <= 65
        assert all(14 <= count <= 26 for count in Counter(splits[name].labels).values())
        assert len(set(splits[name].labels)) == 3
    assert "group_leak" not in {finding.kind for finding in splits.findings}
    assert load_splits(path, group_column="author") == splits
    assert load_splits(path, group_column="author", seed=1).test.rows != splits.test.rows
    assert load_splits(path).train.groups == []


def test_a_few_large_groups(tmp_path):
    splits = load_splits(write_groups(tmp_path / "a.csv", size=150), group_column="author")
    assert [len(splits[name]) for name in NAMES] == [300, 150, 150]
    with pytest.raises(DataError, match=r"found 600 rows in 3 classes and 1 group\. Add rows, .* in different groups"):
        load_splits(write_groups(tmp_path / "b.csv", size=600), group_column="author")


def test_a_class_never_leaves_train_with_its_only_group(tmp_path):
    rows = [f"text {i},{'ab'[i % 2]},{i // 4}" for i in range(80)] + [f"rare {i},c,only" for i in range(4)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,group", *rows]))
    for seed in range(20):
        assert load_splits(tmp_path / "a.csv", group_column="group", seed=seed).train.labels.count("c") == 4


def test_groups_in_two_given_splits_are_reported(tmp_path):
    for i, name in enumerate(("train", "validation", "test")):
        rows = [f"{name} {j},{'ab'[j % 2]},{10 * i + j}" for j in range(10 + (name == "train"))]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label,thread", *rows]))
    (finding,) = load_splits(tmp_path, group_column="thread").findings
    assert (finding.kind, finding.rows) == ("group_leak", (2,))
    assert "texts in validation whose group is also in train: row 2" in finding.message


def test_groups_of_shards(tmp_path):
    for part in range(2):
        table = pa.table({"text": [f"{part} {i}" for i in range(20)], "label": ["a", "b"] * 10, "g": [*range(20)]})
        pq.write_table(table, tmp_path / f"train-0000{part}-of-00002.parquet")
    splits = load_splits(tmp_path, group_column="g")
    assert sorted(group for name in NAMES for group in splits[name].groups) == sorted([*map(str, range(20))] * 2)
    assert not set(splits.train.groups) & set(splits.test.groups)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("Author", "group column 'Author' in .*found columns 'text', 'label', 'author'. Did you mean 'author'"),
        ("label", "a column of its own for each group in .*found 'label', which holds the texts or the labels"),
        ("author", "a group for every text in column 'author' of .*found none in row 3. Fill it in"),
    ],
)
def test_bad_group_columns(tmp_path, column, message):
    (tmp_path / "a.csv").write_text("text,label,author\na,x,1\nb,y,\n")
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "a.csv", group_column=column)


def test_samples_have_no_groups():
    with pytest.raises(ConfigError, match="no columns with sample:bbc_news"):
        load_splits("sample:bbc_news", group_column="author")


def test_copies_are_dropped_from_train(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name, rows in {
        "train": ["one,a", "two,b", "ONE,a", "three,a", "four,b", "two,a", "two,b", ",a", ",a", "five,b"],
        "validation": [" Four ,b", "six,a"],
        "test": ["three,a", "seven,b", "seven,b"],
    }.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    splits = load_splits(tmp_path, deduplicate=True)
    assert splits.train.texts == ["one", "two", "two", "", "", "five"]
    assert splits.train.labels == ["a", "b", "a", "a", "a", "b"]
    assert [len(splits.validation), len(splits.test)] == [2, 3]
    assert {finding.kind for finding in splits.findings} == {
        "conflict",
        "duplicate",
        "empty_text",
    }  # copies in test stay
    message = "dropped 2 texts of train that are also in another split, and 2 later duplicates"
    assert message in caplog.text


def test_a_class_whose_texts_are_all_dropped_is_an_error(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\nc,z\n")
    (tmp_path / "test.csv").write_text("text,label\nc,z\n")
    (tmp_path / "validation.csv").write_text("text,label\nd,x\n")
    with pytest.raises(DataError, match="Expected only labels of train"):
        load_splits(tmp_path, deduplicate=True)


def test_empty_texts_can_be_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [f"text {i},{'xy'[i % 2]}" for i in range(40)] + ["  ,x", ",y"]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]))
    kept = load_splits(tmp_path / "a.csv", drop_empty=True)
    assert sum(len(kept[name]) for name in ("train", "validation", "test")) == 40
    assert [finding for finding in kept.findings if finding.kind == "empty_text"] == []
    assert f"{tmp_path / 'a.csv'}: left out 2 empty texts of train" in caplog.text
    found = load_splits(tmp_path / "a.csv").findings
    assert sum(finding.count for finding in found if finding.kind == "empty_text") == 2
    (tmp_path / "b.csv").write_text("text,label\n ,x\n,y\n")
    with pytest.raises(DataError, match="Expected texts in .*b.csv .train., found only empty ones"):
        load_splits(tmp_path / "b.csv", drop_empty=True)
