"""Texts in, labels and probabilities out, through the command line."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlptl import Classifier, cli
from nlptl.data.sources import read_file
from nlptl.errors import ConfigError
from nlptl.serving import predict
from nlptl.serving.predict import PredictConfig
from nlptl.tasks.tokens import TokenLabels
from tests import processes

ROOT = Path(cli.__file__).parents[1]
TEXTS = ["a great film .", "", "the plot was dull , rather awful and never good .", '"na\u00efve", \U0001f642', "great"]


def expected_rows(model_dir: Path, texts: Sequence[str], rows: Sequence[int]) -> list[dict[str, object]]:
    predictions = Classifier.from_pretrained(model_dir).predict(texts)
    return [
        {
            "row": row,
            "text": text,
            "label": prediction.label,
            "probability": prediction.probability,
            **{f"probability_{name}": value for name, value in prediction.probabilities.items()},
        }
        for row, text, prediction in zip(rows, texts, predictions, strict=True)
    ]


def write_texts(path: Path) -> list[int]:
    """Write TEXTS as the column `text` and return the row numbers."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": list(range(5)), "text": TEXTS}), path)
        return [1, 2, 3, 4, 5]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        return [1, 2, 3, 4, 5]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([("id", "text"), *enumerate(TEXTS)])
    return [2, 3, 4, 5, 6]


def read_rows(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix in (".jsonl", ".ndjson"):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    kinds = {"row": int, "text": str, "label": str}
    return [{name: kinds.get(name, float)(value) for name, value in row.items()} for row in rows]


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def refused(words: Sequence[object], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, expect `code` and one message, and return the message."""
    with pytest.raises(SystemExit) as exit:
        cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (exit.value.code, out) == (code, "")
    message = err.splitlines()[-1]
    assert message.startswith("nlptl: error: ")
    assert err.count("nlptl: error: ") == 1
    assert "Traceback" not in err
    return message


def test_texts_are_labelled_as_in_python(model_dir: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["predict", str(model_dir), "--text", *TEXTS])
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == expected_rows(model_dir, TEXTS, [1, 2, 3, 4, 5])
    assert "na\u00efve" in out
    assert err == ""


@pytest.mark.parametrize("output", ["csv", "tsv", "jsonl", "ndjson", "parquet"])
@pytest.mark.parametrize("source", ["csv", "tsv", "jsonl", "parquet"])
def test_files_keep_the_order_of_their_rows(
    source: str, output: str, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    texts, predictions = tmp_path / f"in.{source}", tmp_path / f"out.{output}"
    rows = write_texts(texts)
    cli.main(["predict", str(model_dir), "--input", str(texts), "--output", str(predictions)])
    out, err = capsys.readouterr()
    assert out == ""
    assert f"wrote 5 predictions to {predictions}" in err
    assert read_rows(predictions) == expected_rows(model_dir, TEXTS, rows)
    assert {path.name for path in tmp_path.iterdir()} == {texts.name, predictions.name}


@pytest.mark.parametrize("num_labels", [2, 3])
@pytest.mark.parametrize("output", ["csv", "jsonl", "parquet"])
def test_texts_are_answered_some_at_a_time(
    output: str,
    num_labels: int,
    tiny_bert: Path,
    toy_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The answers are those of one pass, in the order of the texts, and are counted over all of them."""
    names = ["good", "bad", "dull"][:num_labels]
    Classifier.from_pretrained(tiny_bert, labels=names, seed=4).save(tmp_path / "model")
    words = ["predict", f"{tmp_path}/model", "--input", f"{toy_csv}", "--abstain-below", "0.6"]
    found, logs = [], []
    for size in (50_000, 7):
        monkeypatch.setattr(predict, "TEXTS_AT_ONCE", size)
        cli.main([*words, "--output", f"{tmp_path}/{size}.{output}"])
        found.append(read_rows(tmp_path / f"{size}.{output}"))
        logs.append(capsys.readouterr().err.replace(f"{size}.{output}", "out"))
    assert len(found[0]) == 120
    assert logs[0] == logs[1]
    assert f"{sum(not row['label'] for row in found[0])} of 120 texts get no label" in logs[0]
    assert [list(row) for row in found[0]] == [list(row) for row in found[1]]
    for one, two in zip(*found, strict=True):
        numbers = [name for name in one if name.startswith("probability")]
        assert [one[name] for name in numbers] == pytest.approx([two[name] for name in numbers], abs=1e-6)
        assert {**one, **dict.fromkeys(numbers)} == {**two, **dict.fromkeys(numbers)}


def test_words_are_answered_some_texts_at_a_time(
    tiny_bert: Path, toy_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    task = TokenLabels(("O", "B-film", "I-film"))
    Classifier.from_pretrained(tiny_bert, task=task, seed=4).save(tmp_path / "model")
    found = []
    for size in (50_000, 7):
        monkeypatch.setattr(predict, "TEXTS_AT_ONCE", size)
        cli.main(["predict", f"{tmp_path}/model", "--input", f"{toy_csv}"])
        found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    spans = [[span for row in rows for span in row["spans"]] for rows in found]
    assert len(spans[0]) > 100
    for one, two in zip(*spans, strict=True):
        assert one.pop("probability") == pytest.approx(two.pop("probability"), abs=1e-6)
    assert found[0] == found[1]
    assert [row["text"] for row in found[0]] == read_file(toy_csv).texts


def test_predictions_can_be_read_as_data(model_dir: Path, tmp_path: Path):
    write_texts(tmp_path / "in.csv")
    cli.main(["predict", str(model_dir), "--input", f"{tmp_path}/in.csv", "--output", f"{tmp_path}/out.csv"])
    assert read_file(tmp_path / "out.csv").texts == TEXTS


def test_a_labelled_file_is_read_for_its_texts_alone(
    model_dir: Path, toy_csv: Path, capsys: pytest.CaptureFixture[str]
):
    cli.main(["predict", str(model_dir), "--input", str(toy_csv)])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 120
    assert err == f"{toy_csv}: text column 'text'\n"


def test_standard_input_holds_one_text_per_line(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    standard_input(monkeypatch, b"\xef\xbb\xbfa great film\r\n\n\xc3\xa9t\xc3\xa9\rb")
    cli.main(["predict", str(model_dir), "--input", "-"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == expected_rows(model_dir, ["a great film", "", "\u00e9t\u00e9\rb"], [1, 2, 3])


def test_an_empty_standard_input_gives_no_rows(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    standard_input(monkeypatch, b"")
    cli.main(["predict", str(model_dir), "--input", "-"])
    assert capsys.readouterr().out == ""
    standard_input(monkeypatch, b"")
    cli.main(["predict", str(model_dir), "--input", "-", "--output", f"{tmp_path}/out.csv"])
    header = "row,text,label,probability,probability_negative,probability_positive\n"
    assert (tmp_path / "out.csv").read_text() == header


def test_an_output_that_is_there_is_replaced(model_dir: Path, tmp_path: Path):
    path = tmp_path / "out.jsonl"
    path.write_text("old\n" * 9)
    cli.main(["predict", str(model_dir), "--text", "good", "--output", str(path)])
    assert read_rows(path) == expected_rows(model_dir, ["good"], [1])


def test_max_length_cuts_texts(model_dir: Path, capsys: pytest.CaptureFixture[str]):
    cli.main(["predict", str(model_dir), "--max-length", "3", "--text", "great a a a", "great bad"])
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["probability"] == pytest.approx(second["probability"], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Expected --text or --input, found neither. Pass one of the two."),
        (["--text", "a", "--input", "-"], "Expected --text or --input, found both."),
        (["--text", "a", "--text-column", "b"], "Expected --text-column only with a file as --input, found 'b'"),
        (["--input", "-", "--text-column", "b"], "Expected --text-column only with a file as --input, found 'b'"),
        (["--text", "a", "--no-header"], "Expected --no-header only with a file as --input"),
        (["--input", "-", "--separator", ";"], "Expected --separator only with a file as --input, found ';'"),
        (["--text", "a", "--output", "out.txt"], "Expected an output file in .csv, .tsv, .jsonl, .ndjson, .parquet"),
        (["--text", "a", "--max-length", "65"], "to 64, what"),
        (["--text", "a", "--batch-size", "3"], "Unknown option --batch-size."),
    ],
)
def test_flags_that_cannot_be_obeyed(
    words: list[str], message: str, model_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert message in refused(["predict", model_dir, *words], 2, capsys)


def test_text_and_input_exclude_each_other_in_python():
    with pytest.raises(ConfigError, match="Expected --text or --input, found both"):
        PredictConfig(model_dir="model", text=("a",), input="-")
    with pytest.raises(ConfigError, match="Expected --text-column only with a file"):
        PredictConfig(model_dir="model", text=("a",), text_column="b")


@pytest.mark.parametrize("other", ["in.csv", "./in.csv", "link.csv"])
def test_the_input_is_never_replaced(
    other: str, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "in.csv")
    (tmp_path / "link.csv").symlink_to("in.csv")
    before = (tmp_path / "in.csv").read_bytes()
    words = ["predict", model_dir, "--input", "in.csv", "--output", other]
    assert "Expected an output file other than the input" in refused(words, 2, capsys)
    assert (tmp_path / "in.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("output", "message"), [("none/out.csv", "found no folder"), ("out.csv", "found a folder of that name")]
)
def test_an_output_that_cannot_be_written_is_refused_first(
    output: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "out.csv").mkdir()
    words = ["predict", "no/such/model", "--text", "a", "--output", tmp_path / output]
    assert message in refused(words, 6, capsys)


def test_a_model_that_is_not_there(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]):
    assert f"found nothing at {tmp_path}/model" in refused(["predict", f"{tmp_path}/model", "--text", "a"], 2, capsys)
    assert "found no nlptl.json" in refused(["predict", tiny_bert, "--text", "a"], 2, capsys)


def test_an_input_that_cannot_be_read(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert "found nothing at" in refused(["predict", model_dir, "--input", tmp_path / "none.csv"], 3, capsys)
    write_texts(tmp_path / "in.csv")
    words = ["predict", model_dir, "--input", tmp_path / "in.csv", "--text-column", "review"]
    message = refused(words, 3, capsys)
    assert "Expected text column 'review'" in message
    assert "found columns 'id', 'text'" in message
    standard_input(monkeypatch, b"good\n\xff\xfe bad\n")
    message = refused(["predict", model_dir, "--input", "-"], 3, capsys)
    assert "Expected text in standard input, found half of a surrogate pair" in message
    assert "(row 2)" in message


@pytest.mark.parametrize(
    ("name", "content", "flags", "texts"),
    [
        ("a.tsv", 'text\tid\n"a great film\t1\ndull plot"\t2\n', [], ['"a great film', 'dull plot"']),
        ("a.tsv", 'id\ttext\n1\t"great\n2\tdull"\n3\tgood\n4\tbad\n', [], ['"great', 'dull"', "good", "bad"]),
        ("a.tsv", 'text\n"great\nhe said "no"\ndull"\n', [], ['"great', 'he said "no"', 'dull"']),
        ("a.csv", "sep=;\ntext;id\ngreat, good;1\n", [], ["great, good"]),
        (
            "a.csv",
            "a great film,1\na dull film,2\n",
            ["--no-header", "--text-column", "1"],
            ["a great film", "a dull film"],
        ),
        ("a.csv", "text^id\ngood,bad^1\n", ["--separator", "^"], ["good,bad"]),
        ("a.csv", f'text,id\n"{"good " * 40_000}",1\n', [], ["good " * 40_000]),
    ],
)
def test_files_of_other_programs(name, content, flags, texts, model_dir: Path, tmp_path: Path):
    path, output = tmp_path / name, tmp_path / "out.jsonl"
    path.write_text(content)
    cli.main(["predict", str(model_dir), "--input", str(path), "--output", str(output), *flags])
    assert [row["text"] for row in read_rows(output)] == texts


def test_a_first_line_that_is_a_text_is_not_lost(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.csv").write_text("a great film was shown\nthe plot was dull\n")
    message = refused(["predict", model_dir, "--input", tmp_path / "a.csv"], 3, capsys)
    assert "The first line looks like an example" in message
    assert "pass --no-header --text-column 1" in message


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_missing_text_gets_the_answer_of_an_empty_one(suffix: str, model_dir: Path, tmp_path: Path):
    texts, path, output = ["great film", None, "dull"], tmp_path / f"in{suffix}", tmp_path / "out.jsonl"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cli.main(["predict", str(model_dir), "--input", str(path), "--output", str(output)])
    assert read_rows(output) == expected_rows(model_dir, ["great film", "", "dull"], [1, 2, 3])


def test_a_text_that_is_no_text(model_dir: Path, capsys: pytest.CaptureFixture[str]):
    message = refused(["predict", model_dir, "--text", "good", "b\udcffd"], 3, capsys)
    assert "Expected text in --text, found half of a surrogate pair" in message


def run_shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable} | environment
    words = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(words, env=environment, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.nightly
def test_a_pipe_goes_through(model_dir: Path):
    command = 'printf "a great film\\n\\303\\251t\\303\\251\\n" | "$PYTHON" -m nlptl predict "$MODEL" --input - | cat'
    done = run_shell(command, MODEL=str(model_dir), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = expected_rows(model_dir, ["a great film", "\u00e9t\u00e9"], [1, 2])
    assert [row["text"] for row in rows] == [row["text"] for row in expected]
    assert [row["probability"] for row in rows] == pytest.approx([row["probability"] for row in expected])


def test_a_reader_who_leaves_ends_it_quietly(model_dir: Path, tmp_path: Path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a great film"}\n' * 3000)
    words = ["-m", "nlptl", "predict", model_dir, "--input", tmp_path / "texts.jsonl"]
    with processes.Process(words, stdout=processes.PIPE, stderr=processes.PIPE) as process:
        assert json.loads(process.stdout.readline())["row"] == 1
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == f"{tmp_path / 'texts.jsonl'}: text column 'text'\n"


PEAK = """
import sys
from pathlib import Path

from nlptl import cli
from nlptl.data import texts
from nlptl.serving import predict

texts.LARGE_BYTES, predict.TEXTS_AT_ONCE = 2**20, 2000
cli.main(sys.argv[1:])
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(lines["VmHWM"].split()[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(
    ("source", "num_rows", "num_labels"),
    [
        ("in.csv", 10_000, 200),
        *(pytest.param(each, 100_000, 30, marks=pytest.mark.nightly) for each in ("in.csv", "-")),
    ],
)
def test_memory_does_not_grow_with_the_answers(
    source: str, num_rows: int, num_labels: int, tiny_bert: Path, tmp_path: Path
):
    names = [f"label {i}" for i in range(num_labels)]
    Classifier.from_pretrained(tiny_bert, labels=names).save(tmp_path / "model")
    words = ["-c", PEAK, "predict", "model", "--input", source, "--output", "out.csv", "--max-length", "3"]
    peaks = []
    for count in (4000, 4000 + num_rows):
        lines = "text\n" + "".join(f"good film {i}\n" for i in range(1, count))
        (tmp_path / "in.csv").write_text(lines)
        done = processes.run(words, cwd=tmp_path, input=lines)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.csv").read_bytes().count(b"\n") == count + (source == "-")
        (tmp_path / "out.csv").unlink()
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < num_rows * num_labels * 4  # half of what their probabilities take
