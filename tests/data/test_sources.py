import csv
import gzip
import logging
import os
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlptl.config import Columns
from nlptl.data import sources, table, text_files, texts
from nlptl.data.arrow_files import dataset_table
from nlptl.data.sources import Examples, read_file, read_lines
from nlptl.data.splits import read_splits
from nlptl.data.texts import Texts
from nlptl.data.writers import write_table
from nlptl.errors import ConfigError, DataError
from tests import processes

compress = partial(gzip.compress, mtime=0)  # with the time in it, names of tests would change


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CSV = "text,label\ngood,pos\nbad,neg\n"
JSON_LINES = '{"text": "good", "label": "pos"}\n{"text": "bad", "label": "neg"}\n'
JSON_ARRAY = '\ufeff [{"text": "good",\n"label": "pos"}, {"label": "neg", "text": "bad", "more": [1]}]\n'


def arrow(writer):
    table = pa.table({"text": ["good", "bad"], "label": ["pos", "neg"]})
    sink = pa.BufferOutputStream()
    with writer(sink, table.schema) as file:
        file.write_table(table, max_chunksize=1)
    return sink.getvalue().to_pybytes()


ARROW, ARROW_STREAM = arrow(pa.ipc.new_file), arrow(pa.ipc.new_stream)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.CSV", CSV.replace("\n", "\r\n")),
        ("a.csv", "\n \n" + CSV),
        ("a.csv", "\ufeff" + CSV),
        ("a.csv", CSV.encode("utf-16")),
        ("a.csv", CSV.replace(",", ";")),
        ("a.csv", CSV.replace(",", "\t")),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.csv", "id, Label ,TEXT\n1,pos,good\n2,neg,bad\n"),
        ("a.jsonl", '{"text": "good", "label": "pos"}\n{"label": "neg", "text": "bad", "more": []}\n'),
        ("a.ndjson", '\ufeff{"text": "good", "label": "pos"}\r\n{"text": "bad", "label": "neg"}'),
        ("a.json", JSON_LINES),
        ("a.json", JSON_ARRAY),
        ("a.CSV.gz", compress(CSV.encode())),
        ("a.tsv.gz", compress(CSV.replace(",", "\t").encode("utf-16"))),
        ("a.jsonl.GZ", compress(JSON_LINES.encode())),
        ("a.json.gz", compress(JSON_ARRAY.encode())),
        ("a.arrow", ARROW),
        ("a.arrow", ARROW_STREAM),
    ],
)
def test_formats(tmp_path, name, content):
    examples = read_file(write(tmp_path, name, content))
    assert (examples.texts, examples.labels) == (["good", "bad"], ["pos", "neg"])
    assert examples.source.endswith(name)


def test_rows_are_lines_of_an_editor(tmp_path):
    content = 'text,label\n\n"two\nlines",a\r\n\n  \nb,b\n'
    examples = read_file(write(tmp_path, "a.csv", content))
    assert examples.texts == ["two\nlines", "b"]
    assert examples.rows == [3, 7]
    content = '\n{"text": "a\u2028b", "label": "x"}\n\n{"text": "c", "label": "y"}\n'
    examples = read_file(write(tmp_path, "a.jsonl", content))
    assert examples.texts == ["a\u2028b", "c"]
    assert examples.rows == [2, 4]


def test_values_are_never_guessed(tmp_path):
    values = ["NA", "null", "None", "007", "1e5", " nan ", "-1", "0.0"]
    content = "text,label\n" + "".join(f"{value},{value}\n" for value in values)
    examples = read_file(write(tmp_path, "a.csv", content))
    assert examples.texts == values
    assert examples.labels == values


def test_long_field(tmp_path):
    limit = csv.field_size_limit()
    text = "x" * limit
    assert read_file(write(tmp_path, "a.csv", f"text,label\n{text},a\n")).texts == [text]
    message = rf"starting on row 2: a field of more than {limit:,} characters.* csv\.field_size_limit\("
    for name in ("b.csv", "b.tsv"):
        with pytest.raises(DataError, match=message):
            read_file(write(tmp_path, name, f"text,label\n{text}x,a\n".replace(",", "," if name == "b.csv" else "\t")))
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "has no rows"),
        ("a.csv", "\n \n", "has no rows"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.csv", "text,label\na,b\nc,d,e\n", "2 fields in each row of .*found 3 in row 3"),
        ("a.csv", "text,label\na\n", "found 1 in row 2"),
        ("a.csv", "text,text\na,b\n", "Expected one column 'text' in .*a.csv, found it more"),
        ("a.csv", 'text,label\na,b\n"c,d\n\n', "starting on row 3: a quote that is never closed"),
        ("a.csv", 'text,label\n"a"b,c\n', "starting on row 2: ',' expected"),
        ("a.csv", b"text,label\na,b\nc\xe9,d\n", r"UTF-8 .* byte 0xe9 on line 3 \(byte 16 of the file\)"),
        ("a.csv", CSV.encode("utf-16")[:-1], "Expected UTF-16 .* on line 3"),
        ("a.csv", CSV.encode("utf-16-le"), "NUL character on line 1"),
        ("a.txt", "text", r"\.ndjson, \.json, .*\.bio \(or \.gz after that\), \.parquet or \.arrow, found 'a.txt'"),
        ("a.txt.gz", "text", "found 'a.txt.gz'"),
        ("a.csv.gz", "text", "that gzip can unpack, cannot read .*a.csv.gz: Not a gzipped file"),
        ("a.csv.gz", compress(CSV.encode())[:-9], "Compressed file ended before the end-of-stream marker"),
        ("a.csv.gz", compress(CSV.encode())[:-5] + b"\0" * 5, "CRC check failed"),
        ("a.csv.gz", compress(b"text,label\n" + b" " * 2**25), "at most 200 times the size of the compressed"),
        ("a.csv.gz", compress(b"text,label\na,b\nc\xe9,d\n"), "UTF-8 .* byte 0xe9 on line 3"),
        ("a.json", '[{"text": "a", "label": "b"}, {"text": }]', "found no JSON: Expecting value: line 1"),
        ("a.json", "[]", "has no rows"),
        ("a.json", "[1]", "a value of type int as number 1"),
        ("a.json", '[{"text": "a", "label": NaN}]', "NaN is not JSON"),
        ("a.json", "[" * 100_000, "values nested too deeply"),
        ("a.json", '[{"text": "a", "label": "b"}, {"text": "a"}]', r"key 'label' .*\['text'\] \(row 2\)"),
        ("a.json", '{"a": [{"text": "a", "label": "b"}]}', "'a'"),
        ("a.arrow", "ARROW1", "Expected an Arrow file, cannot read"),
        ("a.arrow", ARROW[:-300], "Expected an Arrow file, cannot read"),
        ("a.arrow", b"", "Expected an Arrow file, cannot read"),
        ("a.arrow", ARROW_STREAM[:-8], "Expected an Arrow file, cannot read"),
        ("a.arrow", ARROW_STREAM[: len(ARROW_STREAM) // 2], "Expected an Arrow file, cannot read"),
        ("a.csv", compress(CSV.encode()), "found a gzip archive. Unpack it, or add .gz to its name"),
        ("a.jsonl", '{"text": "a", "label": "b", "text": "c"}\n', "on row 1: the key 'text' occurs twice in an object"),
        ("a.json", '[{"text": "a", "label": "b", "label": "c"}]', "the key 'label' occurs twice in an object"),
        ("a.parquet", "PAR1", "Expected a Parquet file"),
        ("a.csv", '" "\n', "found no columns"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": }\n', "on row 2: Expecting value"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', "on row 1: NaN is not JSON"),
        ("a.jsonl", '["a", "b"]\n', "on row 1: a value of type list"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "on row 1: values nested too deeply"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n\n{"text": "a"}\n', r"key 'label' .*\['text'\] \(row 3\)"),
        ("a.jsonl", '{"text": 5, "label": "b"}\n', r"string as text .*found 5, a number \(row 1\)"),
        ("a.jsonl", '{"text": "\\ud800", "label": "b"}\n', r"surrogate pair in '\\ud800' \(row 1\)"),
        ("a.jsonl", '{"text": "\\u0000", "label": "b"}\n', r"NUL character in '\\x00' \(row 1\)"),
        ("a.csv", "text,label\na,b\nc,\nd,  \n", r"label for every text in column 'label' .*none in 2 rows \(3, 4\)"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_file(write(tmp_path, name, content))


@pytest.mark.parametrize("content", [ARROW, ARROW_STREAM], ids=["file", "stream"])
def test_any_flipped_bit_of_an_arrow_file_is_an_error_or_another_text(content, tmp_path):
    found = set()
    for place in range(0, len(content), 3):
        damaged = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
        try:
            found.add(len(read_file(write(tmp_path, "a.arrow", damaged))))
        except DataError:
            found.add(0)
    assert found <= {0, 1, 2}
    assert 0 in found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
def test_text_is_checked_in_pieces(size, encoding, tmp_path, monkeypatch):
    """Whatever character, line or mark a piece ends in."""
    monkeypatch.setattr(text_files, "BYTES_AT_ONCE", size)
    content = "text,label\n\u00e9t\u00e9 \U0001f600,\u20ac\r\nb,c\n"
    mark, encoding = (b"\xff\xfe", "utf-16-le") if encoding.endswith("bom") else (b"", encoding)
    examples = read_file(write(tmp_path, "a.csv", mark + content.encode(encoding)))
    assert (examples.texts, examples.labels) == (["\u00e9t\u00e9 \U0001f600", "b"], ["\u20ac", "c"])
    broken = mark + (content + "d,e\n").encode(encoding) + (b"\xe9,f\n" if encoding.startswith("utf-8") else b"x")
    place = len(broken) - (4 if encoding.startswith("utf-8") else 1)
    with pytest.raises(DataError, match=rf"on line 5 \(byte {place} of the file\)"):
        read_file(write(tmp_path, "b.csv", broken))
    with pytest.raises(DataError, match="NUL character on line 3"):
        read_file(write(tmp_path, "c.csv", mark + content.replace("b,", "\0,").encode(encoding)))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_files_are_read_some_rows_at_a_time(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 3)
    values = {"text": [f"text {i}" for i in range(10)], "label": [f"{i % 4}" for i in range(10)]}
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table(values), path)
    else:
        write_table(path, [values])
    examples = read_file(path)
    assert (examples.texts, examples.labels) == (values["text"], values["label"])
    assert list(examples.rows) == list(range(2, 12) if name == "a.csv" else range(1, 11))


def test_lines_are_read_some_at_a_time(monkeypatch):
    monkeypatch.setattr(sources, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(texts, "LARGE_BYTES", 500)
    lines = [f"text {i}" for i in range(10)]
    examples = read_lines(f"{line}\n" for line in lines)
    assert isinstance(examples.texts, Texts)
    assert examples.texts == lines
    assert list(examples.rows) == list(range(1, 11))
    with pytest.raises(DataError, match=r"half of a surrogate pair.* \(row 11\)"):
        read_lines([*lines, "\udcff"])


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="no file here fails to be read")
def test_file_that_cannot_be_read(tmp_path):
    (tmp_path / "a.csv").symlink_to("/proc/self/mem")  # whose first byte is not to be had
    with pytest.raises(DataError, match="cannot read .*Input/output error"):
        read_file(tmp_path / "a.csv")


def test_not_a_file(tmp_path):
    with pytest.raises(DataError, match="found nothing at .*nope.csv"):
        read_file(tmp_path / "nope.csv")
    with pytest.raises(DataError, match="found a folder"):
        read_file(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="found a pipe"):
        read_file(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(DataError, match="cannot look at"):
        read_file(tmp_path / "loop.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = write(tmp_path, "a.csv", CSV)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot read"):
        read_file(path)


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.array(["good", "bad"]).dictionary_encode()
    pq.write_table(pa.table({"text": text, "label": pa.array([True, False]), "more": [[1], []]}), path)
    examples = read_file(path)
    assert (examples.texts, examples.labels, examples.rows) == (["good", "bad"], ["True", "False"], [1, 2])
    pq.write_table(pa.table({"text": pa.array(["a", None], pa.large_string()), "label": [0, 1]}), path)
    assert read_file(path).texts == ["a", ""]
    pq.write_table(pa.table({"stars": [5, 4], "review": ["good", "bad"]}), path)
    with pytest.raises(DataError, match="--text-column review --label-column stars"):
        read_file(path)
    pq.write_table(pa.table({"text": [], "label": []}), path)
    with pytest.raises(DataError, match="has no rows"):
        read_file(path)


def test_class_names_of_parquet_and_hub(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    pq.write_table(dataset.data.table, tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet").labels == ["pos", "neg"]
    table = dataset_table("owner/set", dataset)
    assert table.class_names == {"label": ["neg", "pos"]}
    assert list(table.read(["label", "text"])) == [(range(1, 3), [[1, 0], ["a", "b"]])]
    assert list(table.first_rows) == [["a", 1], ["b", 0]]
    tags = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-x"])),
        }
    )
    tagged = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "tags": [[0, 1]]}, features=tags)
    assert dataset_table("owner/set", tagged).class_names == {"tags": ["O", "B-x"]}
    pq.write_table(tagged.data.table, tmp_path / "tags.parquet")
    assert read_file(tmp_path / "tags.parquet", task="tokens").labels == ["O B-x"]


def test_unlabelled_splits_of_the_hub_are_left_out(monkeypatch, caplog):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    labels = {"train": [1, 0], "validation": [0, 1], "test": [-1, -1]}
    loaded = {
        split: datasets.Dataset.from_dict({"text": ["a", "b"], "label": values}, features=features)
        for split, values in labels.items()
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    assert list(read_splits("owner/set")) == ["train", "validation"]
    assert "owner/set, split test is left out: all its labels are -1 or missing" in caplog.text
    with pytest.raises(ConfigError, match="--separator and --no-header only with CSV and TSV files, found owner/set"):
        read_splits("owner/set", Columns(header=False))


@pytest.mark.parametrize(
    ("name", "repository", "configuration", "revision"),
    [
        ("owner/set", "owner/set", None, None),
        ("owner/set@v1.0", "owner/set", None, "v1.0"),
        ("owner/set:mrpc", "owner/set", "mrpc", None),
        ("set:plain_text@refs/pr/1", "set", "plain_text", "refs/pr/1"),
    ],
)
def test_configurations_and_revisions_of_the_hub(name, repository, configuration, revision, monkeypatch):
    asked = []

    def load(*args, **kwargs):
        asked.append((*args, kwargs["revision"]))
        return {"train": datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})}

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    assert read_splits(name)["train"].labels == ["x", "y"]
    assert asked == [(repository, configuration, revision)]


def test_unreachable_hub_is_one_message():
    script = """
from nlptl.data.splits import read_splits
from nlptl.errors import ResourceError
try:
    read_splits("someone/reviews@main")
except ResourceError as error:
    print(error)
"""
    done = processes.run(["-c", script], check=True)
    assert done.stderr == ""
    (message,) = done.stdout.splitlines()
    assert message.startswith("Expected to load the data set 'someone/reviews@main' from the Hugging Face Hub, found: ")
    assert "sample:rotten_tomatoes" in message
    assert "hf download someone/reviews --repo-type dataset" in message


def test_examples():
    examples = Examples.from_lists(["a", "b", "c"], [0, 1, 0], split="test")
    assert (examples.labels, examples.rows, examples.split, len(examples)) == (["0", "1", "0"], [1, 2, 3], "test", 3)
    assert examples.select([2, 0]) == Examples(["c", "a"], ["0", "0"], [3, 1], "memory", "test")
    with pytest.raises(DataError, match="found 2 texts and 1 labels"):
        Examples.from_lists(["a", "b"], ["x"])
    with pytest.raises(DataError, match=r"found 1, a number \(row 2\)"):
        Examples.from_lists(["a", 1], ["x", "y"])


def test_without_labels(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    examples = read_file(write(tmp_path, "a.csv", "text\n\na\n"), with_labels=False)
    assert (examples.texts, examples.labels, examples.rows) == (["a"], [], [3])
    assert examples.select([0]).labels == []
    assert caplog.messages == [f"{tmp_path / 'a.csv'}: text column 'text'"]
