"""CSV and TSV files as people and other programs write them; the csv module and pandas say what is in them."""

import csv
import gzip
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptl.config import Columns
from nlptl.data.checks import find_problems
from nlptl.data.sources import read_file
from nlptl.data.splits import load_splits
from nlptl.data.tables import open_table
from nlptl.errors import ConfigError, DataError

quickly = settings(derandomize=True, database=None, deadline=None, max_examples=40)

PLAIN = "".join(f"plain film number {i} is here\t{i % 2}\n" for i in range(12))
GLUE = f'"I loved the film , he said .\t1\nBut the ending was dull ."\t0\n{PLAIN}'


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    data = content.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


def rows_of(path: Path, **options: object) -> list[tuple[object, ...]]:
    table = open_table(path, Columns(**options))  # type: ignore[arg-type]
    return [row for _, columns in table.read(table.names) for row in zip(*columns, strict=True)]


def lines_of(content: str, separator: str) -> list[tuple[str, ...]]:
    """Return the rows as the csv module reads them where quotation marks are characters like others."""
    rows = csv.reader(content.splitlines(), delimiter=separator, quoting=csv.QUOTE_NONE)
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.csv"])
def test_marks_in_the_texts_of_a_tsv_are_characters(name: str, tmp_path: Path):
    path = write(tmp_path, name, "text\tlabel\n" + GLUE)
    examples = read_file(path)
    assert list(zip(examples.texts, examples.labels, strict=True)) == lines_of(GLUE, "\t")
    assert list(examples.rows) == list(range(2, 16))
    assert sum(len(load_splits(path)[split]) for split in ("train", "validation", "test")) == 14


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("text{0}label", "{1}{0}{2}"),
        ("label{0}text", "{2}{0}{1}"),
        ("id{0}label{0}text", "{3}{0}{2}{0}{1}"),
        ("text{0}score", "{1}{0}0.{3}"),
        ("id{0}text", "{3}{0}{1}"),
    ],
)
def test_many_rows_between_two_marks_are_all_read(header: str, row: str, separator: str, tmp_path: Path):
    texts = [f"film number {i}" for i in range(60)]
    texts[7], texts[30] = f'"{texts[7]}', f'{texts[30]}"'
    rows = [row.format(separator, text, i % 3, 100 + 3 * i) for i, text in enumerate(texts)]
    content = "\n".join([header.format(separator), *rows]) + "\n"
    path = write(tmp_path, "a.csv", content)
    assert rows_of(path) == lines_of(content, separator)[1:]


def test_a_mark_that_is_never_closed(tmp_path: Path):
    content = 'text\tlabel\n"I loved the film\t1\nplain film\t0\nanother one\t1\n'
    assert rows_of(write(tmp_path, "a.tsv", content)) == lines_of(content, "\t")[1:]
    with pytest.raises(DataError, match="starting on row 2: a quote that is never closed"):
        read_file(write(tmp_path, "a.csv", content.replace("\t", ",")))


def test_rows_swallowed_where_quotes_are_needed_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """As other fields with a comma are enclosed in the file, the marks of row 2 are read as enclosing, too."""
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(30)]
    content = "\n".join(["text,label", '"I loved it,a', 'But dull",b', '"one, two",a', *rows])
    path = write(tmp_path, "a.csv", content)
    assert len(rows_of(path)) == 32
    assert "spans lines that may be rows of their own (row 2)" in caplog.text
    findings = find_problems({"train": read_file(path)})
    assert [finding.rows for finding in findings if finding.kind == "rows_in_text"] == [(2,)]


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
def test_what_pandas_writes_is_read_as_pandas_reads_it(separator: str, tmp_path: Path):
    pieces = ["a", "good film", ",", ";", "\t", "|", '"', "'", "\n", "\n\n", " ", ". ", "\u00e9", "1", "sep=;"]
    texts = st.lists(st.sampled_from(pieces), min_size=1, max_size=6).map("".join)
    rows = st.lists(st.tuples(texts, st.sampled_from("ab1"), st.integers(0, 9)), max_size=8)
    names = ["text, body; raw", "label", "id"]

    @quickly
    @given(rows, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]))
    def check(found: list[tuple[str, str, int]], quoting: int) -> None:
        path = tmp_path / ("a.tsv" if separator == "\t" else "a.csv")
        # With a text that holds the separator it is certain that quotation marks enclose fields.
        frame = pd.DataFrame([(f"a{separator}b", "a", 1), *found], columns=names)
        frame.to_csv(path, sep=separator, quoting=quoting, index=False)  # type: ignore[call-overload]
        read = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        table = open_table(path)
        assert table.names == list(read.columns) == names
        assert rows_of(path) == list(read.itertuples(index=False, name=None))

    check()


def test_lines_without_enclosed_fields_are_read_as_the_csv_module_reads_them(tmp_path: Path):
    pieces = ["a", "good film", ",", '"', '""', "'", " ", ". ", "\u00e9", ' "']
    texts = st.lists(st.sampled_from(pieces), min_size=1, max_size=6).map("".join).filter(str.strip)
    rows = st.lists(st.tuples(texts, st.sampled_from("ab")), max_size=8)

    @quickly
    @given(rows)
    def check(found: list[tuple[str, str]]) -> None:
        # A mark inside a field that is not enclosed is one that no program writes so.
        lines = [f"{text}\t{label}" for text, label in [('he said "no"', "a"), *found]]
        path = write(tmp_path, "a.tsv", "\n".join(["text\tlabel", *lines]) + "\n")
        assert rows_of(path) == lines_of("\n".join(lines), "\t")

    check()


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.tsv", 'text\tlabel\n"two\nlines"\ta\n"a\ttab"\tb\n', ["two\nlines", "a\ttab"]),
        ("a.tsv", 'text\tlabel\n"he said ""a\tb\nc"""\ta\nd\tb\n', ['he said "a\tb\nc"', "d"]),
        ("a.tsv", 'text\tlabel\n"say ""hi"""\ta\n"Hello, you"\tb\n', ['say "hi"', "Hello, you"]),
        (
            "a.csv",
            'text,label\n"Hello, friend\nI am well",a\nb,b\nc,a\nd,b\ne,a\n',
            ["Hello, friend\nI am well", *"bcde"],
        ),
        ("a.csv", '"text","label"\n"Dear sir\n\nYes",a\n"b, c",b\n', ["Dear sir\n\nYes", "b, c"]),
    ],
)
def test_texts_of_several_lines(name: str, content: str, texts: list[str], tmp_path: Path, caplog):
    assert read_file(write(tmp_path, name, content)).texts == texts
    assert caplog.text == ""


def test_texts_of_several_lines_that_may_be_rows_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """In a single column nothing tells rows from a text of several lines."""
    path = write(tmp_path, "a.csv", 'text\n"I loved the film\nBut it was dull"\nanother\n')
    assert len(read_file(path, with_labels=False)) == 2
    assert "spans lines that may be rows of their own (row 2)" in caplog.text


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('"text, body";label\na film;a\n', ["text, body", "label"]),
        ("id;text (a,b);label\n0;a film;a\n", ["id", "text (a,b)", "label"]),
        ("id\ttext,raw\tlabel\n0\ta, b\ta\n", ["id", "text,raw", "label"]),
        ("sep=;\ntext;label\na, film;a\n", ["text", "label"]),
        ('"sep=|"\r\ntext|label\r\na, film|a\r\n', ["text", "label"]),
        ("text|label\na film|a\n", ["text", "label"]),
        ("a;b, c\nd;e, f\n", ["a", "b, c"]),
        ("a;b;c, d\ne;f;g, h\n", ["a", "b", "c, d"]),
        ("text,label\na;b,c\n", ["text", "label"]),
        ("text\na; b\n", ["text"]),
        ('text\tlabel\n"I loved\ta\nyou"\tb\n', ["text", "label"]),
        ("text;label\n" + "a, b;c\n" * 200, ["text", "label"]),
    ],
)
def test_the_separator_cuts_all_lines_alike(content: str, names: list[str], tmp_path: Path):
    for name in ("a.csv", "a.csv.gz"):
        path = write(tmp_path, name, content)
        assert open_table(path).names == names
        assert len(rows_of(path)[0]) == len(names)


def test_row_numbers_count_the_line_for_excel(tmp_path: Path):
    path = write(tmp_path, "a.csv", "\nsep=;\ntext;label\na;b\n\n c;d\n")
    examples = read_file(path)
    assert (examples.texts, examples.rows) == (["a", " c"], [4, 6])
    assert read_file(write(tmp_path, "a.tsv", "sep=,\ntext,label\na,b\n")).texts == ["a"]


def test_two_separators_that_fit_are_an_error(tmp_path: Path):
    path = write(tmp_path, "a.csv", "a;b,c\nd;e,f\n")
    with pytest.raises(DataError, match="each of ',' and ';' cuts its lines into 2 columns. Pass --separator ','"):
        open_table(path)
    assert open_table(path, Columns(separator=";")).names == ["a", "b,c"]


@pytest.mark.parametrize(("given", "mark"), [("^", "^"), ("\t", "\t"), ("\\t", "\t"), ("tab", "\t"), (" ", " ")])
def test_a_separator_that_is_given(given: str, mark: str, tmp_path: Path):
    path = write(tmp_path, "a.csv", f"text{mark}label\ngood,film{mark}a\nbad{mark}b\n")
    assert read_file(path, Columns(separator=given)).texts == ["good,film", "bad"]
    rows = "".join(f"film,{i}{mark}{'ab'[i % 2]}\n" for i in range(12))
    path = write(tmp_path, "b.csv", f"text{mark}label\n{rows}")
    assert load_splits(path, separator=given).labels.names == ("a", "b")


@pytest.mark.parametrize("separator", ["", "||", '"', "\n"])
def test_bad_separators(separator: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="Expected one character other than .* as --separator"):
        read_file(write(tmp_path, "a.csv", "text,label\na,b\n"), Columns(separator=separator))


@pytest.mark.parametrize(("given", "flag"), [({"separator": ";"}, "--separator"), ({"header": False}, "--no-header")])
def test_settings_of_csv_files_are_refused_for_others(given: dict[str, object], flag: str, tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"text": "a", "label": "b"}\n')
    with pytest.raises(ConfigError, match=f"Expected {flag} only with CSV and TSV files, found .*a.jsonl"):
        read_file(path, Columns(**given))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no columns with sample:imdb"):
        load_splits("sample:imdb", **given)  # type: ignore[arg-type]


def test_the_message_names_the_separator_that_was_not_found(tmp_path: Path):
    path = write(tmp_path, "a.csv", "text^label\ngood^a\n")
    with pytest.raises(DataError, match=r"found column 'text\^label'. If '\^' separates .* pass --separator '\^'"):
        read_file(path)
    path = write(tmp_path, "a.tsv", "text,label\ngood,a\n")
    with pytest.raises(DataError, match="If ',' separates the columns, pass --separator ,"):
        read_file(path)
    path = write(tmp_path, "b.tsv", "text\tlabel\ngood\tfilm\ta\n")
    with pytest.raises(DataError, match=r"Expected 2 fields .*found 3 in row 2"):
        read_file(path)


HEADERLESS = [f"film number {i} was {'good' if i % 2 else 'bad'}\t{'pos' if i % 2 else 'neg'}" for i in range(12)]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.tsv.gz"])
def test_a_file_without_a_header(name: str, tmp_path: Path):
    separator = "," if name == "a.csv" else "\t"
    path = write(tmp_path, name, "\n".join(HEADERLESS).replace("\t", separator))
    with pytest.raises(DataError, match="looks like an example.*pass --no-header --text-column 1 --label-column 2"):
        read_file(path)
    with pytest.raises(DataError, match="looks like an example.*pass --no-header --text-column 1 "):
        read_file(path, with_labels=False)
    examples = read_file(path, Columns(header=False, text_column="1", label_column="2"))
    assert (len(examples), examples.rows[0], examples.labels[:2]) == (12, 1, ["neg", "pos"])
    assert read_file(path, Columns(header=False, text_column="a {1}", label_column="2")).texts[0].startswith("a film")
    splits = load_splits(path, header=False, text_column="1", label_column="2")
    assert sum(len(splits[split]) for split in ("train", "validation", "test")) == 12
    with pytest.raises(DataError, match="found columns '1', '2'. Pass --text-column 1 --label-column 2"):
        read_file(path, Columns(header=False))


def test_columns_that_are_named_by_an_example_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path, "a.csv", "\n".join(HEADERLESS).replace("\t", ","))
    read_file(path, Columns(text_column="film number 0 was bad", label_column="neg"))
    assert "if it is an example, pass --no-header" in caplog.text
    caplog.clear()
    read_file(path, Columns(text_column="film number 0 was bad"), with_labels=False)
    assert "if it is an example, pass --no-header" in caplog.text


def test_six_columns_without_a_header(tmp_path: Path):
    rows = [
        f'"{4 * (i % 2)}","146{i}","Mon Apr 06 2009","NO_QUERY","user{i}","{"a long tweet " * 4}{i}"' for i in range(9)
    ]
    path = write(tmp_path, "a.csv", "\n".join(rows))
    with pytest.raises(DataError, match="pass --no-header --text-column 6 --label-column NUMBER"):
        read_file(path)
    assert read_file(path, Columns(header=False, text_column="6", label_column="1")).labels[:2] == ["0", "4"]


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("v1,v2,,,", "{1},{0},,,", Columns(text_column="v2", label_column="v1")),
        ("id,id,text,label", "{2},{2},{0},{1}", Columns()),
        ("x,x,text,label,group", "1,2,{0},{1},{2}", Columns(group_column="group")),
        ("x,x,a,b,label", "1,2,{0},b,{1}", Columns(text_column="{a} {b}")),
    ],
)
def test_columns_that_nobody_reads_may_be_repeated(header: str, row: str, columns: Columns, tmp_path: Path):
    lines = [header, *(row.format(f"message {i}", "ab"[i % 2], i) for i in range(12))]
    path = write(tmp_path, "a.csv", "\n".join(lines))
    examples = read_file(path, columns)
    assert [text[:9] for text in examples.texts] == ["message 0", *(f"message {i}"[:9] for i in range(1, 12))]
    assert examples.labels == ["a", "b"] * 6


@pytest.mark.parametrize(
    "columns",
    [
        Columns(text_column="x"),
        Columns(label_column="x"),
        Columns(pair_column="x"),
        Columns(group_column="x"),
        Columns(text_column="{x} {text}"),
    ],
)
def test_columns_that_are_read_may_not_be_repeated(columns: Columns, tmp_path: Path):
    path = write(tmp_path, "a.csv", "x,x,text,label\n1,2,a,b\n")
    with pytest.raises(DataError, match="Expected one column 'x' in .*, found it more than once"):
        read_file(path, columns)
    with pytest.raises(DataError, match="Expected one column 'x'"):
        read_file(path, slice_columns=["x"])


def test_the_message_on_empty_columns_names_the_others(tmp_path: Path):
    path = write(tmp_path, "a.csv", "v1,v2,,,\nham,a long message,,,\n")
    with pytest.raises(DataError, match="found columns 'v1', 'v2'. Pass --text-column v2 --label-column v1 "):
        read_file(path)


@pytest.mark.parametrize("header", ["id,text", "text,Id", "text,tweet_id", "textID,text", "text,Unnamed: 0"])
def test_no_identifier_is_proposed_as_label(header: str, tmp_path: Path):
    path = write(tmp_path, "a.csv", f"{header}\n1,a\n2,b\n")
    message = "Pass --text-column text --label-column COLUMN .*Texts without labels are for nlptl predict"
    with pytest.raises(DataError, match=message):
        read_file(path)


def test_the_limit_of_python_is_left_as_it_is(tmp_path: Path):
    before = csv.field_size_limit(2000)
    try:
        path = write(tmp_path, "a.csv", f'text,label\n"{"x" * 3000}",a\nb,b\n')
        with pytest.raises(DataError, match="a field of more than 2,000 characters"):
            read_file(path)
        assert csv.field_size_limit() == 2000
        csv.field_size_limit(4000)
        assert len(read_file(path).texts[0]) == 3000
    finally:
        csv.field_size_limit(before)
