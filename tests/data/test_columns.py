import logging
from pathlib import Path

import numpy as np
import pytest

from nlptl.config import Columns
from nlptl.data.columns import describe_rows, find_columns
from nlptl.data.label_columns import ClassCollector, LabelColumns
from nlptl.data.sources import read_file
from nlptl.data.table import Table
from nlptl.errors import DataError


def find(names, text=None, label=None, rows=(), with_labels=True):
    columns = Columns(text_column=text, label_column=label)
    return find_columns(Table(names, rows, iter), columns, source="a.csv", with_labels=with_labels)


@pytest.mark.parametrize(
    ("names", "given", "found"),
    [
        (["id", "text", "label"], {}, ("text", "label")),
        (["Class", " SENTENCE "], {}, (" SENTENCE ", "Class")),
        (["review", "stars"], {"text": "review", "label": "stars"}, ("review", "stars")),
        (["text", "content", "label"], {"label": "text"}, ("content", "text")),
        (["text", "stars"], {"with_labels": False}, ("text", None)),
    ],
)
def test_find_columns(names, given, found):
    assert find(names, **given) == found


def test_choice_by_name_is_logged(caplog):
    caplog.set_level(logging.INFO)
    find(["text", "label"], text="text", label="label")
    assert caplog.messages == []
    find(["text", "label"], text="text")
    assert caplog.messages == ["a.csv: label column 'label'"]


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            ["stars", "review"],
            {"rows": [["5", "a long text"], ["4", "another"]]},
            r"Expected a text column \(text, sentence, content, document\) and a label column \(label, .*\) in a.csv, "
            r"found columns 'stars', 'review'. Pass --text-column review --label-column stars "
            r"\(text_column= and label_column= in Python\)",
        ),
        (["text", "stars"], {}, "Expected a label column .*Pass --text-column text --label-column stars"),
        (["id", "a", "label"], {}, "Expected a text column .*Pass --text-column COLUMN --label-column label"),
        (["my review", "x"], {"label": "x"}, "Pass --text-column 'my review' --label-column x"),
        (
            ["Review", "stars", "id"],
            {"text": "reviw", "label": "stars"},
            "Expected text column 'reviw' in a.csv, .*Did you mean 'Review'. Pass --text-column Review --label-column",
        ),
        (["a"], {"with_labels": False}, r"Pass --text-column a \(text_column= in Python\)"),
        (["text", "a"], {"text": "a", "label": "a"}, "found 'a' for both"),
        (["text"], {}, "Pass --text-column text --label-column COLUMN"),
        (["a", "a"], {}, "Expected a text column .*Pass --text-column COLUMN --label-column COLUMN"),
        (["text", "text", "a"], {}, "Expected one column 'text' in a.csv, found it more than once"),
        (["a", "b", "b"], {"text": "a", "label": "b"}, "Expected one column 'b' in a.csv, found it more than once"),
    ],
)
def test_columns_not_found(names, given, message):
    with pytest.raises(DataError, match=message):
        find(names, **given)


def label_names(values, rows, *, where, class_names=None):
    collector = ClassCollector(LabelColumns(where=where, class_names=class_names))
    collector.extend([values], rows)
    return collector.finish(rows)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["NA", " a", "a"], ["NA", " a", "a"]),
        ([3, 10, 2**70], ["3", "10", str(2**70)]),
        ([True, False], ["True", "False"]),
        ([1.0, 0], ["1", "0"]),
        (list(np.array([1, 2])), ["1", "2"]),
        (np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_label_names(values, names):
    assert label_names(values, range(len(names)), where="here") == names


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None, ""], r"found none in 2 rows \(2, 3\). Fill in"),
        ([1.0, float("nan")], "found none in row 2"),
        ([1, 0.5], r"found 0.5 \(row 2\), which looks like a regression target"),
        ([1, float("inf")], "looks like a regression target"),
        ([0, -1, -1], r"found -1 in 2 rows \(2, 3\), which looks like 'unlabelled'"),
        ([1, "1", True], r"3 types: boolean True \(row 3\), number 1 \(row 1\), string '1' \(row 2\)"),
        ([["a", "b"], []], r"one label per text in here, found a list, \['a', 'b'\] \(row 1\)"),
        ([{"a": 1}, {}], r"found object \{'a': 1\} \(row 1\)"),
        (["a\ud800"], "half of a surrogate pair"),
    ],
)
def test_bad_labels(values, message):
    with pytest.raises(DataError, match=message):
        label_names(values, range(1, len(values) + 1), where="here")


def test_class_names():
    assert label_names([1, 0], [1, 2], where="here", class_names=["neg", "pos"]) == ["pos", "neg"]
    with pytest.raises(DataError, match=r"from 0 to 1 in here, .*found 2 \(row 1\)"):
        label_names([2], [1], where="here", class_names=["neg", "pos"])
    with pytest.raises(DataError, match="unlabelled"):
        label_names([-1, 0], [1, 2], where="here", class_names=["neg", "pos"])


def test_describe_rows():
    assert describe_rows([7]) == "row 7"
    assert describe_rows(range(2, 1202)) == "1,200 rows (2, 3, 4, 5, 6, ...)"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{title}: {body}", ["a: x", "{b}: y"]),
        ("{body}{title}", ["xa", "y{b}"]),
        ("[{title}] {{}} {title}.", ["[a] {} a.", "[{b}] {} {b}."]),
        ("{title}", ["a", "{b}"]),
        ("the {label}", ["1", "2"]),
    ],
)
def test_template_joins_columns(template: str, expected: list[str], tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("title,body,label,the {label}\na,x,p,1\n{b},y,n,2\n")
    examples = read_file(path, Columns(text_column=template))
    assert (examples.texts, examples.labels) == (expected, ["p", "n"])


def test_template_of_blanks_is_an_empty_text(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("title,body,label\n, ,p\na,,n\n")
    assert read_file(path, Columns(text_column="{title}: {body}")).texts == ["", "a: "]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}: {body}", "text column 'titel' of the template .* Did you mean 'title'"),
        ("{title:>8}", "as --text-column, found .*: something other than the name of a column in braces"),
        ("{title!r}", "something other than the name of a column"),
        ("{}", "something other than the name of a column"),
        ("{title", "A brace that is meant as such is written twice"),
        ("{{}}", "Expected the names of columns in the template"),
        ("{title.x}", "text column 'title.x' of the template"),
        ("{body} {label}", "a column of its own for each label in .*, found 'label', which holds the texts"),
        ("{label} {body}", "Expected different columns for texts and labels|found 'label', which holds|label column"),
    ],
)
def test_templates_that_are_refused(template: str, message: str, tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("title,body,label\na,x,p\n")
    with pytest.raises(DataError, match=message):
        read_file(path, Columns(text_column=template))


def test_value_of_a_template_that_is_no_text_is_named(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"title": "a", "body": "x", "label": "p"}\n{"title": 5, "body": "y", "label": "n"}\n')
    with pytest.raises(DataError, match=r"column 'title' of .*found 5, a number \(row 2\)"):
        read_file(path, Columns(text_column="{title} {body}"))
