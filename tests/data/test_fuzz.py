"""Readers on whatever bytes there are: rows or a DataError, and what was written whole is read back as it was."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptl.data.sources import read_file
from nlptl.data.tables import open_table
from nlptl.errors import DataError

SUFFIXES = ("csv", "tsv", "jsonl", "json", "csv.gz", "json.gz", "conll", "parquet", "arrow")
PIECES = (
    *(
        b'"',
        b'""',
        b",",
        b";",
        b"\t",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\\",
        b"'",
        b"a",
        b"text",
        b"label",
        b"# ",
    ),
    *(b"text,label\n", b'{"text": "a", "label": "b"}', b"{", b"}", b"[", b"]", b":", b"null", b"1e999", b"NaN", b"-1"),
    *(b'"\\ud800"', b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xc3\xa9", b"\xe2\x80\xa8", b"\x85", b"\xff"),
    *(b"-DOCSTART-", b" O\n", b"PAR1", b"ARROW1\0\0", b"\x1f\x8b", b"\xff\xff\xff\xff\0\0\0\0"),
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30) | st.sampled_from(
    [
        "",
        " ",
        '"',
        '""',
        "\r",
        "\n",
        "\r\n",
        ",",
        "a\nb",
        "\u2028",
        "\x85",
        "\x0b",
        "NA",
        "null",
        "007",
        "\\",
        "=1",
        "\ufeff",
    ]
)
rows_of_texts = st.lists(st.tuples(texts, texts), min_size=1, max_size=8)

quickly = settings(derandomize=True, database=None, deadline=None, max_examples=75)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def write(folder: Path, suffix: str, content: bytes) -> Path:
    path = folder / f"a.{suffix}"
    path.write_bytes(content)
    return path


def read(path: Path) -> list[tuple[object, ...]]:
    """Return the row number and the values of each row."""
    table = open_table(path)
    batches = list(table.read(table.names))
    return [row for rows, columns in batches for row in zip(rows, *columns, strict=True)]


def read_anything(path: Path) -> None:
    """Read a file as a table and as examples: each time there are rows, or a message that names the file."""

    def read_table() -> None:
        names = open_table(path).names
        list(open_table(path).first_rows)
        if len(set(names)) == len(names):
            numbers = [row[0] for row in read(path)]
            assert numbers == sorted(set(numbers))

    def read_examples() -> None:
        examples = read_file(path)
        assert len(examples.texts) == len(examples.labels) == len(examples.rows) > 0

    for attempt in (read_table, read_examples):
        message = str(path)
        try:
            attempt()
        except DataError as error:
            message = str(error)
        assert str(path) in message


def packed(suffix: str, content: bytes) -> bytes:
    return gzip.compress(content, mtime=0) if suffix.endswith(".gz") else content


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_bytes(suffix: str, folder: Path):
    @quickly
    @given(st.binary(max_size=100) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.booleans())
    def check(content: bytes, is_packed: bool) -> None:
        read_anything(write(folder, suffix, packed(suffix, content) if is_packed else content))

    check()


def whole_files() -> dict[str, bytes]:
    """Return a file of each format, with two columns and a dozen rows."""
    columns = {"text": [f"text {i}, \u00e9\n\u20ac" for i in range(12)], "label": [f"{i % 3}" for i in range(12)]}
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    table, files = pa.table(columns), {}
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter).writerows([columns, *zip(*columns.values(), strict=True)])
        files[suffix] = text.getvalue().encode()
    files |= {"jsonl": lines.encode(), "json": json.dumps(records).encode()}
    files |= {f"{suffix}.gz": packed(".gz", files[suffix]) for suffix in ("csv", "json")}
    files["conll"] = b"EU NNP B-ORG\nrejects VB O\n\n# more\nPeter NNP B-PER\n\xe2\x82\xac NN O\n"
    for suffix, write_whole in (("parquet", pq.write_table), ("arrow", write_arrow)):
        binary = pa.BufferOutputStream()
        write_whole(table, binary)
        files[suffix] = binary.getvalue().to_pybytes()
    return files


def write_arrow(table: pa.Table, where: object) -> None:
    with pa.ipc.new_file(where, table.schema) as file:
        file.write_table(table, max_chunksize=5)


WHOLE = whole_files()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(suffix: str, folder: Path):
    """Bits are flipped, bytes are inserted, pieces are cut out or written twice."""
    whole = WHOLE[suffix]
    assert len(read(write(folder, suffix, whole))) in (2, 12)
    place = st.integers(0, len(whole))
    damage = st.tuples(st.sampled_from(["flip", "insert", "cut", "twice", "end"]), place, place, st.binary(max_size=8))

    @quickly
    @given(st.lists(damage, min_size=1, max_size=3))
    def check(damages: list[tuple[str, int, int, bytes]]) -> None:
        content = whole
        for kind, one, two, more in damages:
            start, end = min(one, two), max(one, two)
            before, piece, after = content[:start], content[start:end], content[end:]
            content = {
                "flip": before + bytes([content[start] ^ 1 << two % 8]) + content[start + 1 :]
                if start < len(content)
                else content,
                "insert": before + more + piece + after,
                "cut": before + after,
                "twice": before + piece + piece + after,
                "end": before,
            }[kind]
        read_anything(write(folder, suffix, content))

    check()


def lines_before(parts: list[str]) -> list[int]:
    """Return the line on which each part starts, as editors count."""
    return [1 + len(re.findall("\r\n|\r|\n", "".join(parts[:i]))) for i in range(len(parts))]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_is_read_as_it_was_written(suffix: str, encoding: str, folder: Path):
    @quickly
    @given(rows_of_texts, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    def check(rows: list[tuple[str, str]], end: str, quoting: int) -> None:
        parts = []
        for row in [("text", "label"), *rows]:
            text = io.StringIO()
            # Of the older Pythons, those that write lines ending in \n leave \r without quotes.
            has_break = any("\r" in value for value in row)
            form = {"lineterminator": end, "quoting": csv.QUOTE_ALL if has_break else quoting}
            csv.writer(text, delimiter="\t" if suffix == "tsv" else ",", **form).writerow(row)
            parts.append(text.getvalue())
        path = write(folder, suffix, packed(suffix, "".join(parts).encode(encoding)))
        assert read(path) == [(line, *row) for line, row in zip(lines_before(parts)[1:], rows, strict=True)]

    check()


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "json.gz"])
def test_json_is_read_as_it_was_written(suffix: str, ascii_only: bool, folder: Path):
    @quickly
    @given(
        rows_of_texts, st.lists(st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]), min_size=8, max_size=8), st.booleans()
    )
    def check(rows: list[tuple[str, str]], ends: list[str], is_array: bool) -> None:
        records = [{"text": text, "label": label} for text, label in rows]
        parts = [json.dumps(record, ensure_ascii=ascii_only) + end for record, end in zip(records, ends, strict=False)]
        numbers = lines_before(parts)
        content = "".join(parts)
        if is_array and suffix != "jsonl":
            content, numbers = json.dumps(records, ensure_ascii=ascii_only), list(range(1, len(rows) + 1))
        path = write(folder, suffix, packed(suffix, content.encode()))
        assert read(path) == [(number, *row) for number, row in zip(numbers, rows, strict=True)]

    check()


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_columns_are_read_as_they_were_written(suffix: str, folder: Path):
    @quickly
    @given(rows_of_texts)
    def check(rows: list[tuple[str, str]]) -> None:
        table = pa.table(dict(zip(("text", "label"), map(list, zip(*rows, strict=True)), strict=True)))
        path = folder / f"a.{suffix}"
        if suffix == "arrow":
            with path.open("wb") as file:
                write_arrow(table, file)
        else:
            pq.write_table(table, path, row_group_size=3)
        assert read(path) == [(number, *row) for number, row in enumerate(rows, start=1)]

    check()


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0 \t\r\n"), min_size=1, max_size=8)
sentences = st.lists(st.lists(st.tuples(words, words), min_size=1, max_size=5), min_size=1, max_size=5)


@pytest.mark.parametrize("suffix", ["conll", "iob2", "bio.gz"])
def test_sentences_are_read_as_they_were_written(suffix: str, folder: Path):
    @quickly
    @given(sentences, st.sampled_from(["\t", " ", " _ "]), st.sampled_from(["\n", "\r\n"]))
    def check(found: list[list[tuple[str, str]]], between: str, end: str) -> None:
        # "# " may begin a comment, and only a tab after it tells that it does not.
        separators = [["\t" if word == "#" and between == " " else between for word, _ in each] for each in found]
        if any(word == "#" for each in found for word, _ in each) and between == " _ ":
            return
        parts = [f"-DOCSTART-{end}"]
        for sentence, marks in zip(found, separators, strict=True):
            lines = [f"{word}{mark}{tag}{end}" for (word, tag), mark in zip(sentence, marks, strict=True)]
            parts.append("".join(lines) + end)
        path = write(folder, suffix, packed(suffix, "".join(parts).encode()))
        expected = [([word for word, _ in each], [tag for _, tag in each]) for each in found]
        assert read(path) == [
            (line, *sentence) for line, sentence in zip(lines_before(parts)[1:], expected, strict=True)
        ]

    check()
