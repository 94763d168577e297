"""Targets of every kind, in every form that files have them in, and what is refused."""

import json
import logging
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from nlptl import ConfigError, DataError, TokenLabels, load_splits
from nlptl.config import Columns
from nlptl.data.numbers import numbers
from nlptl.data.sources import Examples, read_file
from nlptl.data.targets import label_sets, strata


@pytest.fixture
def write(tmp_path: Path):
    """Return a function that writes rows, as JSON lines, Parquet or CSV, and returns the file."""

    def write(rows: list[dict], suffix: str = ".jsonl") -> Path:
        path = tmp_path / f"data{suffix}"
        if suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif suffix == ".csv":
            lines = [list(rows[0]), *(list(row.values()) for row in rows)]
            cells = [[str(cell).replace('"', '""') for cell in line] for line in lines]
            path.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in cells))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


SETS = [["joy", "love"], [], ["rage"]]
CANONICAL = ['["joy", "love"]', "[]", '["rage"]']


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_of_labels(suffix, write):
    path = write([{"text": "a", "labels": labels[::-1]} for labels in SETS], suffix)
    assert read_file(path, task="multi_label").labels == CANONICAL


def test_lists_of_labels_in_a_csv(write):
    path = write([{"text": "a", "labels": json.dumps(labels)} for labels in SETS], ".csv")
    assert read_file(path, task="multi_label").labels == CANONICAL


def test_labels_with_a_separator(write):
    path = write([{"text": "a", "labels": labels} for labels in ("love; joy;", "", "rage")], ".csv")
    assert read_file(path, Columns(label_separator=";"), task="multi_label").labels == CANONICAL


@pytest.mark.parametrize("flags", [("1", "0"), ("true", "False"), ("1.0", "0.0"), (1, 0), (True, False)])
def test_a_column_for_each_label(flags, write):
    yes, no = flags
    rows = [
        {"text": "a", "joy": yes, "love": yes, "rage": no, "id": "7"},
        {"text": "b", "joy": no, "love": no, "rage": no, "id": "8"},
        {"text": "c", "joy": no, "love": no, "rage": yes, "id": "9"},
    ]
    path = write(rows, ".jsonl" if isinstance(yes, int) else ".csv")
    columns = ("joy", "love", "rage")
    assert read_file(path, Columns(label_columns=columns), task="multi_label").labels == CANONICAL


@pytest.mark.parametrize(
    ("value", "columns", "message"),
    [
        ("joy", {}, r"Expected a list of labels for each text in column 'labels' .*found 'joy' \(row 2\).*--label-sep"),
        ("[1.5]", {}, r"Expected a list of labels .*found '\[1.5\]'"),
        ('["joy"', {}, r"Expected a list of labels .*row 2"),
        ('[""]', {}, r"Expected a list of labels .*row 2"),
        ("maybe", {"label_columns": ("labels", "more")}, r"Expected 0 or 1 .*found 'maybe' in 'labels' \(row 2\)"),
    ],
)
def test_no_labels(value, columns, message, write):
    path = write([{"text": "a", "labels": value, "more": "1"}], ".csv")
    with pytest.raises(DataError, match=message):
        read_file(path, Columns(**columns), task="multi_label")


FLAGS = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    "form",
    [
        lambda flags: flags,
        lambda flags: list(map(float, flags)),
        lambda flags: list(map(bool, flags)),
        lambda flags: np.array(flags),
        lambda flags: np.array(flags, dtype=np.float32),
        lambda flags: list(np.array(flags, dtype=bool)),
        lambda flags: json.dumps(flags),
        lambda flags: json.dumps(list(map(bool, flags))),
        lambda flags: [str(flag) for flag in flags],
        tuple,
    ],
)
def test_lists_of_flags_name_their_labels(form, caplog):
    """A set never repeats a member: 0 and 1 in lists of one length say of each label whether a text has it."""
    caplog.set_level(logging.INFO)
    labels = [form(flags) for flags in FLAGS]
    examples = Examples.from_lists(["a"] * 3, labels, task="multi_label")
    assert examples.labels == ['["label_0", "label_2"]', "[]", '["label_1"]']
    assert "lists of 3 flags are read as the labels label_0, label_1, ..., which a text has where its list has 1" in (
        caplog.text
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_files_with_lists_of_flags(suffix, write):
    for rows in ([[1, 0], [1, 1]], [[0, 1], [1, 0]], [[0.0, 1.0], [0.0, 1.0]]):
        path = write([{"text": "a", "labels": flags} for flags in rows], suffix)
        names = [[f"label_{i}" for i, flag in enumerate(flags) if flag] for flags in rows]
        assert read_file(path, task="multi_label").labels == list(map(json.dumps, names))


def test_flags_as_strings_between_separators(write):
    path = write([{"text": "a", "labels": labels} for labels in ("1,0,1", "0,0,0")], ".csv")
    found = read_file(path, Columns(label_separator=","), task="multi_label").labels
    assert found == ['["label_0", "label_2"]', "[]"]


def test_names_of_many_flags_sort_by_number():
    examples = Examples.from_lists(["a"], [[1] * 11], task="multi_label")
    assert json.loads(examples.labels[0]) == [f"label_{i:02}" for i in range(11)]


@pytest.mark.parametrize("lists", [[[0], [1], []], [[0, 2], [1]], [[0, 1], [0, 1]], [[1], [0, 1]], [["1"], ["0", "1"]]])
def test_lists_of_class_numbers_are_sets(lists):
    examples = Examples.from_lists(["a"] * len(lists), lists, task="multi_label")
    assert [json.loads(target) for target in examples.labels] == [list(map(str, each)) for each in lists]


@pytest.mark.parametrize(
    ("lists", "row"),
    [
        ([[1, 0, 1], [1, 0]], 1),
        ([[0, 1], [2, 0, 0]], 2),
        ([[1.0, 0.0], [1.0]], 1),
        ([[True], ["joy"]], 1),
        ([[0.5]], 1),
    ],
)
def test_lists_that_are_neither_sets_nor_flags_are_refused(lists, row):
    with pytest.raises(DataError, match=rf"Expected a list of labels for each text .*found .* \(row {row}\)"):
        Examples.from_lists(["a"] * len(lists), lists, task="multi_label")


def test_flags_of_classes_with_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=["joy", "love"]))}
    )
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "labels": [[1, 1], [0, 1]]}, features=features)
    dataset.to_parquet(tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", task="multi_label").labels == ['["joy", "love"]', '["love"]']


@pytest.mark.parametrize(("value", "score"), [("3", 3.0), (" -2.5 ", -2.5), ("1e3", 1000.0), (4, 4.0), (0.1, 0.1)])
def test_scores(value, score, write):
    path = write([{"text": "a", "stars": value}], ".csv" if isinstance(value, str) else ".jsonl")
    (target,) = read_file(path, task="regression").labels
    assert numbers(target) == {"score": score}


def test_several_scores(write):
    path = write([{"text": "a", "content": 1, "style": 2.25}])
    (target,) = read_file(path, Columns(label_columns=("style", "content")), task="regression").labels
    assert numbers(target) == {"style": 2.25, "content": 1.0}
    assert list(numbers(target)) == ["style", "content"]


@pytest.mark.parametrize("value", ["", "high", "nan", "inf", "1,5", None, True])
def test_no_scores(value, write):
    path = write([{"text": "a", "score": 1.0}, {"text": "a", "score": value}])
    with pytest.raises(DataError, match=r"Expected a number in column 'score' .*\(row 2\). Correct or delete"):
        read_file(path, task="regression")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_words_with_tags(suffix, write):
    rows = [{"tokens": ["In", "New  York", ""], "tags": ["O", "B-place", "O"]}]
    rows = [{key: json.dumps(value) for key, value in row.items()} for row in rows] if suffix == ".csv" else rows
    examples = read_file(write(rows, suffix), task="tokens")
    assert list(examples.texts) == ["In New\u00a0York "]
    assert examples.labels == ["O B-place O"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"Expected a tag for each word .*found 2 words and 1 tags \(row 1\)"),
        ({"tokens": "a b", "tags": ["O", "O"]}, r"Expected a list of words .*found 'a b' \(row 1\).*--text-column"),
        ({"tokens": [1], "tags": ["O"]}, r"Expected a list of words for each text .*found \[1\] \(row 1\)"),
        ({"tokens": [], "tags": ["B-x"]}, r"found 0 words and 1 tags \(row 1\)"),
        ({"tokens": ["a"], "tags": []}, r"found 1 words and 0 tags \(row 1\)"),
        ({"tokens": None, "tags": None}, r"Expected a list of tags .*found None \(row 1\)"),
        ({"tokens": ["a"], "tags": "O"}, r"Expected a list of tags .*found 'O' \(row 1\)"),
        ({"tokens": ["a"], "tags": ["B person"]}, r"Expected a list of tags .*found \['B person'\]"),
        ({"words": ["a"], "pos": ["O"]}, r"Expected a label column \(tags, ner_tags, labels\) .*--label-column"),
    ],
)
def test_no_words_with_tags(row, message, write):
    with pytest.raises(DataError, match=message):
        read_file(write([row]), task="tokens")


def test_pairs(write):
    path = write([{"text": "a", "text2": "b", "label": "yes"}, {"text": "c", "text2": "", "label": "no"}])
    examples = read_file(path, Columns(pair_column="text2"))
    assert (list(examples.pairs), examples.labels) == (["b", ""], ["yes", "no"])
    assert list(examples.select(np.array([1])).pairs) == [""]
    for columns, message in (
        ({"pair_column": "text3"}, "Expected second text column 'text3' .*Did you mean 'text2'.*--pair-column"),
        ({"pair_column": "text"}, "a column of its own for each second text"),
    ):
        with pytest.raises(DataError, match=message):
            read_file(path, Columns(**columns))


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        (
            "single_label",
            {"label_columns": ("a", "b")},
            "--label-columns only with the tasks multi_label and regr",
        ),
        ("multi_label", {"label_columns": ("a",), "label_column": "b"}, "in place of --label-column, found --label-co"),
        ("regression", {"label_separator": ";"}, "--label-separator only with the task multi_label"),
        ("multi_label", {"label_separator": ""}, "--label-separator .*not empty"),
        ("tokens", {"pair_column": "b"}, "Expected one column of words with the task tokens"),
        ("tokens", {"text_column": "{a} {b}"}, "Expected one column of words with the task tokens"),
    ],
)
def test_columns_that_contradict_the_task(task, columns, message, write):
    with pytest.raises(ConfigError, match=message):
        read_file(write([{"text": "a", "b": "c"}]), Columns(**columns), task=task)


def test_strata():
    assert strata(["x", "y"], "single_label") == ["x", "y"]
    assert strata(['["a", "b"]', '["a"]', "[]"], "multi_label") == ["b", "a", ""]
    assert strata(["O O", "O B-x", "O"], "tokens") == ["O", "tagged", "O"]
    tenths = strata([str(float(i)) for i in range(100)], "regression")
    assert [tenths.count(str(part)) for part in range(10)] == [10] * 10
    assert label_sets(["O B-x B-x", "O"], "tokens") == [("B-x", "O"), ("O",)]


@pytest.mark.parametrize("task", ["multi_label", "regression", "tokens"])
def test_every_split_has_its_share(task, write):
    rows = {
        "multi_label": [{"text": f"t {i}", "labels": ["all", *["rare"] * (i % 10 == 0)]} for i in range(200)],
        "regression": [{"text": f"t {i}", "score": i} for i in range(200)],
        "tokens": [{"tokens": ["t", str(i)], "tags": ["O", "O" if i % 10 else "B-x"]} for i in range(200)],
    }[task]
    splits = load_splits(write(rows), task=task)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [160, 20, 20]
    for name in ("validation", "test"):
        part: Examples = splits[name]
        if task == "regression":
            assert 80 < np.mean([numbers(target)["score"] for target in part.labels]) < 120
        else:
            assert sum("rare" in target or "B-x" in target for target in part.labels) == 2
    with pytest.raises(ConfigError, match=rf"Expected one label for each text, found the task {task}. Pass task="):
        _ = splits.labels


def test_findings_of_pairs_and_label_sets(write):
    rows = [{"text": f"a {i}", "text2": "same for all", "labels": ["x", "y"][: i % 3]} for i in range(30)]
    rows += [dict(rows[1]), {**rows[2], "labels": ["z"]}]
    (path := write(rows)).rename(path.with_name("train.jsonl"))
    splits = load_splits(path.parent, task="multi_label", pair_column="text2", seed=1)
    found = {finding.kind: finding.count for finding in splits.findings}
    leaks = sum(count for kind, count in found.items() if kind in ("leak", "duplicate", "conflict"))
    assert leaks >= 2  # the two rows that stand there before, wherever they came to; never the second text alone
    assert found.get("near_duplicate") is None


def test_tags_that_begin_with_i_are_read_as_b(write, caplog):
    """IOB1, as CoNLL-2003 has it: B- only where a span follows one of its type."""
    caplog.set_level(logging.INFO)
    rows = [{"tokens": ["a"] * 6, "tags": ["I-x", "I-x", "B-x", "O", "I-y", "I-x"]}, {"tokens": ["a"], "tags": ["O"]}]
    assert read_file(write(rows), task="tokens").labels == ["B-x I-x B-x O B-y B-x", "O"]
    assert "3 tags I- that begin a span are read as B-" in caplog.text


TAGS = "O B-PER I-PER I-PER B-PER B-LOC O B-LOC"


@pytest.mark.parametrize(
    ("tags", "shown"),
    [
        ("O B-PER I-PER E-PER S-PER S-LOC O S-LOC", "E- as I-, S- as B-"),  # IOBES
        ("O B-PER I-PER L-PER U-PER U-LOC O U-LOC", "L- as I-, U- as B-"),  # BILOU
        ("O B-PER M-PER E-PER S-PER S-LOC O S-LOC", "E- as I-, M- as I-, S- as B-"),  # BMES
        ("O I-PER I-PER E-PER E-PER E-LOC O E-LOC", "E- as I-"),  # IOE2, where every span ends with E
        ("O I-PER I-PER I-PER B-PER I-LOC O I-LOC", None),  # IOB1
        (TAGS, None),
    ],
)
def test_other_schemes_are_read_as_iob2(tags, shown, write, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"tokens": ["a"] * 8, "tags": tags.split()}]
    assert read_file(write(rows), task="tokens").labels == [TAGS]
    assert shown is None or f"tags are read as IOB2: {shown}" in caplog.text


@pytest.mark.parametrize(
    ("tags", "found", "way_out"),
    [
        (["DT", "NN", "VB"], "found 'DT'", "A tag for every word, such as its part of speech, cannot be learned yet"),
        ([0, 1, 2], "found '0'", "Write each tag by its name, such as O, B-person"),
        (["O", "PER", "PER"], "found 'PER'", "Convert the tags: B-PER on the first word of each PER, I-PER on"),
        (["B-x", "E-x", "L-x"], "found 'E-x'", "These are letters of several schemes. Convert the tags to IOB2"),
        (["O", "E-mail", "O"], "found 'E-mail'", "Convert the tags to IOB2"),
        (["O", "O", "O"], "found only O", "Pass another --label-column"),
    ],
)
def test_what_is_no_tag_of_a_span_is_an_error(tags, found, way_out, write):
    path = write([{"tokens": ["a", str(i), "c"], "tags": tags} for i in range(10)])
    with pytest.raises(DataError, match=f"{found}.*{re.escape(way_out)}"):
        load_splits(path, task="tokens")
    with pytest.raises(DataError, match=f"{found}.*{re.escape(way_out)}"):
        TokenLabels.from_examples(read_file(path, task="tokens"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_null_is_an_empty_text(suffix, write):
    """What pandas writes for a missing text: null in JSON and Parquet, nothing in CSV."""
    rows = [{"title": None, "text": f"t {i}", "pair": "p", "label": "ab"[i % 2]} for i in range(3)]
    rows.append({"title": "x", "text": None, "pair": None, "label": "a"})
    path = write(rows, suffix)
    assert list(read_file(path).texts) == ["t 0", "t 1", "t 2", ""]
    assert list(read_file(path, Columns(pair_column="pair")).pairs) == ["p", "p", "p", ""]
    joined = read_file(path, Columns(text_column="{title}: {text}")).texts
    assert list(joined) == [": t 0", ": t 1", ": t 2", "x: "]
    assert list(read_file(path, with_labels=False).texts)[-1] == ""


@pytest.mark.parametrize("empty", [None, []])
def test_no_words_are_an_empty_text(empty, write):
    rows = [{"tokens": ["In", "Rome"], "tags": ["O", "B-x"]} for _ in range(12)]
    path = write([*rows, {"tokens": empty, "tags": []}])
    examples = read_file(path, task="tokens")
    assert (examples.texts[-1], examples.labels[-1]) == ("", "O")
    assert len(load_splits(path, task="tokens", drop_empty=True, near_duplicates=False).train) == 10
    splits = load_splits(path, task="tokens", near_duplicates=False)
    assert "empty_text" in {finding.kind for finding in splits.findings}


@pytest.mark.parametrize(
    ("value", "name"), [(-1, "-1"), (0.5, "0.5"), (2.0, "2"), ("high", "high"), (10**15, "1" + "0" * 15)]
)
def test_labels_in_an_order_may_be_any_numbers(value, name, write):
    assert read_file(write([{"text": "a", "label": value}]), task="ordinal").labels == [name]


def test_class_numbers_out_of_range_are_refused(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=["joy", "love"]))}
    )
    for labels, message in (([0, 1], None), ([1, -1], r"found \[1, -1\] \(row 1\)")):
        dataset = datasets.Dataset.from_dict({"text": ["a"], "labels": [[0]]}, features=features)
        table = dataset.data.table.set_column(1, dataset.data.table.schema.field(1), pyarrow.array([labels]))
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        if message is None:
            assert read_file(tmp_path / "a.parquet", task="multi_label").labels == ['["joy", "love"]']
        else:
            with pytest.raises(DataError, match=message):
                read_file(tmp_path / "a.parquet", task="multi_label")


def test_a_label_that_only_another_split_has_is_an_error(tmp_path):
    rows = {"train": ["joy", "rage"], "validation": ["joy"], "test": ["joy", "fear"]}
    for name, labels in rows.items():
        lines = [json.dumps({"text": f"{name} {label}", "labels": [label]}) + "\n" for label in labels]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    message = r"Expected only labels of train .*test.jsonl \(test\), found 'fear' in row 2"
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path, task="multi_label")


@pytest.mark.parametrize("seed", range(5))
def test_no_label_is_taken_out_of_train(seed, write):
    """Labels that are never the rarest one of their text, and types of spans that occur once."""
    rows = [{"tokens": ["a", str(i)], "tags": ["B-all", f"B-t{i}" if i % 4 == 0 else "O"]} for i in range(60)]
    splits = load_splits(write(rows), task="tokens", seed=seed)
    known = {tag for tags in splits.train.labels for tag in tags.split(" ")}
    assert known >= {tag for name in ("validation", "test") for tags in splits[name].labels for tag in tags.split(" ")}


def test_examples_of_any_task_from_lists():
    assert Examples.from_lists(["a", "b"], [["y", "x"], []], task="multi_label").labels == ['["x", "y"]', "[]"]
    assert Examples.from_lists(["a"], [1.5], task="regression", pairs=["b"]).pairs == ["b"]
    tagged = Examples.from_lists([["In", "Rome"]], [["O", "B-x"]], task="tokens")
    assert (tagged.texts, tagged.labels) == (["In Rome"], ["O B-x"])
    with pytest.raises(DataError, match="found 2 texts and 2 labels and 1 second texts"):
        Examples.from_lists(["a", "b"], ["x", "y"], pairs=["c"])
