"""What a user may bring that is broken or odd, one case for each kind: the command says so and leaves no traceback."""

import csv
import fcntl
import gzip
import io
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from nlptl import Classifier, cli

NAMES = ("sun", "rain", "snow", "wind", "fog", "hail", "frost", "dew", "ice", "mist", "heat", "cold")
CLEAN = [(f"{name} over {name}shire today", "ab"[i % 2]) for i, name in enumerate(NAMES)]
OTHERS = [(f"no {name} in {name}ford", "ab"[i % 2]) for i, name in enumerate(NAMES)]


@dataclass
class Desk:
    """Where a case is tried out: an empty folder, a tiny encoder, a saved classifier, and what it is undone with."""

    folder: Path
    model: Path
    saved: Path
    patch: pytest.MonkeyPatch
    undo: list[Callable[[], object]]


Write = Callable[[Desk], object]


@dataclass(frozen=True)
class Case:
    """A command on a bad input: `{path}` is what `write` returns; `{folder}`, `{model}`, `{saved}` are the desk's."""

    name: str
    words: str
    write: Write
    code: int
    message: str
    """What is said, as a regular expression; it is looked for in the one message of an error, or in all output."""


CHECK = "check {path} --no-near-duplicates"
TRAIN = "run sentiment --model {model} --output-dir {folder}/run --num-epochs 1"
PLAN = f"{TRAIN} --dry-run"
PREDICT = "predict {saved} --input {path}"


def content(name: str, text: str | bytes) -> Write:
    """Return what writes a file."""

    def write(desk: Desk) -> Path:
        path = desk.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ("text", "label"), name: str = "reviews.csv") -> Write:
    """Return what writes a CSV file."""
    file = io.StringIO()
    csv.writer(file).writerows([header, *rows])
    return content(name, file.getvalue())


def lines(*records: object, name: str = "reviews.jsonl") -> Write:
    """Return what writes JSON lines, strings as they are."""
    return content(name, "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))


def labelled(*labels: object) -> Write:
    """Return what writes JSON lines with these labels."""
    return lines(*({"text": f"text {i}", "label": label} for i, label in enumerate(labels, start=1)))


def parquet(**columns: object) -> Write:
    def write(desk: Desk) -> Path:
        pq.write_table(pa.table(columns), desk.folder / "reviews.parquet")
        return desk.folder / "reviews.parquet"

    return write


def folder(**splits: Sequence[Sequence[str]]) -> Write:
    """Return what writes a folder with a CSV file for each split."""

    def write(desk: Desk) -> Path:
        for name, rows in splits.items():
            table(rows, name=f"data/{name}.csv")(desk)
        return desk.folder / "data"

    return write


def both(*writes: Write) -> Write:
    """Return what does several things, and returns the result of the first."""
    return lambda desk: [write(desk) for write in writes][0]


def cut(write: Write, end: int) -> Write:
    """Return what leaves only the beginning of a file."""

    def write_less(desk: Desk) -> object:
        path = write(desk)
        path.write_bytes(path.read_bytes()[:end])
        return path

    return write_less


def pipe(desk: Desk) -> Path:
    os.mkfifo(desk.folder / "reviews.csv")
    return desk.folder / "reviews.csv"


def growing(desk: Desk) -> Path:
    """Write a file to which somebody adds a row as soon as its columns are known."""
    path = table(CLEAN)(desk)

    class Writer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "text column" in record.getMessage():
                with path.open("a") as file:
                    file.write("one more,a\n")

    handler = Writer()
    logging.getLogger("nlptl").addHandler(handler)
    desk.undo.append(lambda: logging.getLogger("nlptl").removeHandler(handler))
    return path


def shards(desk: Desk) -> Path:
    table(CLEAN, name="data/train-00000-of-00002.csv")(desk)
    content("data/train-00001-of-00002.csv", b"")(desk)
    return desk.folder / "data"


def twice(desk: Desk) -> Path:
    path = table(CLEAN, name="data/train.csv")(desk)
    (path.parent / "test.csv").symlink_to(path)
    return path.parent


def model(settings: dict[str, object] | None = None, damage: Callable[[Path], object] | None = None) -> Write:
    """Return what makes a damaged copy of the tiny encoder, and something to read beside it."""

    def write(desk: Desk) -> Path:
        copy = desk.folder / "model"
        shutil.copytree(desk.model, copy)
        values = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(values | (settings or {})))
        if damage is not None:
            damage(copy)
        table(CLEAN)(desk)
        return copy

    return write


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def damage(copy: Path) -> None:
        found = safetensors.torch.load((copy / "model.safetensors").read_bytes())
        change(found)
        safetensors.torch.save_file(found, copy / "model.safetensors", metadata={"format": "pt"})

    return damage


def more_words(copy: Path) -> None:
    """Add words to the tokenizer that the encoder has no embeddings for."""
    path = copy / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"] |= {f"new{i}": len(values["model"]["vocab"]) + i for i in range(100)}
    path.write_text(json.dumps(values))


def run_of_others(desk: Desk) -> Path:
    content("run/config.json", "{}")(desk)
    return table(CLEAN)(desk)


def busy(desk: Desk) -> Path:
    """Write data, and a folder that another process trains in."""
    content("run/.lock", '{"pid": 1, "host": "there"}\n')(desk)
    file = (desk.folder / "run/.lock").open()
    fcntl.flock(file, fcntl.LOCK_EX)
    desk.undo.append(file.close)
    return table(CLEAN)(desk)


def standard_input(text: bytes) -> Write:
    def write(desk: Desk) -> str:
        desk.patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        return "-"

    return write


PERSON, ONES = "\U0001f469\u200d\U0001f4bb", "\u0301" * 10_000

CASES = [
    Case(
        "header alone", CHECK, content("reviews.csv", "text,label\n"), 3, r"none: \S+/reviews.csv has no rows\. Check"
    ),
    Case(
        "byte order mark",
        CHECK,
        content("reviews.csv", "\ufefftext,label\nsun,a\nrain,b\n"),
        0,
        "text column 'text', label column 'label'",
    ),
    Case("UTF-16", CHECK, content("reviews.csv", "text,label\nsun,a\nrain,b\n".encode("utf-16")), 0, "read as UTF-16"),
    Case(
        "Latin-1",
        CHECK,
        content("reviews.csv", "text,label\nsun,a\ncaf\u00e9,b\n".encode("latin-1")),
        3,
        r"Expected UTF-8 in \S+/reviews.csv, found byte 0xe9 on line 3 \(byte 20 of the file\)\. Save the file as UTF",
    ),
    Case(
        "one bad byte in a million rows",
        CHECK,
        content("reviews.csv", b"text,label\n" + b"a,b\n" * 999_998 + b"\xff,b\n"),
        3,
        r"byte 0xff on line 1000000 \(byte 4,000,003 of the file\)",
    ),
    Case(
        "control characters",
        CHECK,
        table([*CLEAN, ("red \x1b[31m alert", "a")]),
        0,
        r"texts in train with control characters.*: row 14\n.*\n.*Write the file again as UTF-8",
    ),
    Case(
        "field of ten megabytes",
        CHECK,
        table([*CLEAN, ("x" * (10 * 2**20 + 1), "a")]),
        3,
        r"starting on row 14: a field of more than 10,485,760 characters\. Look for a double quote that is missing",
    ),
    Case(
        "quote that is not closed",
        CHECK,
        content("reviews.csv", 'text,label\nsun,a\n"rain,b\nsnow,a\n'),
        3,
        r"starting on row 3: a quote that is never closed\. Put fields in double quotes",
    ),
    Case(
        "too many fields",
        CHECK,
        content("reviews.csv", "text,label\nsun,a\nrain, snow,b\n"),
        3,
        r"Expected 2 fields in each row of \S+/reviews.csv, .* found 3 in row 3\. Put texts that contain ',' in double",
    ),
    Case(
        "line breaks within texts",
        CHECK,
        content("reviews.csv", 'text,label\r\n"two\r\nlines",a\nsun,b\r\n"three\n\n\nlines",a\n" ",b\n'),
        0,
        r"empty texts in train: row 9\n",
    ),
    Case(
        "semicolons",
        CHECK,
        content("reviews.csv", "text;label\nsun, wind;a\nrain;b\n"),
        0,
        "columns are separated by ';'",
    ),
    Case(
        "one name for two columns",
        CHECK,
        table([("sun", "wind", "a")], header=("text", "text", "label")),
        3,
        r"Expected one column 'text' in \S+, found it more than once\. Rename",
    ),
    Case(
        "column in another spelling",
        f"{CHECK} --label-column Lable",
        table(CLEAN),
        3,
        r"Expected label column 'Lable' in .*found columns 'text', 'label'\. Did you mean 'label'\? Pass",
    ),
    Case("texts like missing values", PREDICT, table([("NA",), ("null",)], header=("text",)), 0, '"NA".*\n.*"null"'),
    Case(
        "labels like missing values",
        CHECK,
        table([*CLEAN, ("no label", "None"), ("none at all", "NA")]),
        0,
        r"classes with a single example in train \('NA', 'None'\): 2 rows \(14, 15\)",
    ),
    Case("empty texts", CHECK, table([*CLEAN, ("", "a"), (" \t", "b")]), 0, r"empty texts in train: 2 rows \(14, 15\)"),
    Case(
        "texts like numbers",
        PREDICT,
        table([("007",), ("1e5",)], header=("text",)),
        0,
        '"row": 2, "text": "007".*\n.*"1e5"',
    ),
    Case(
        "text like a formula",
        PREDICT,
        table([("=cmd|' /C calc'!A0",)], header=("text",)),
        0,
        r"\"text\": \"=cmd\|' /C calc'!A0\"",
    ),
    Case(
        "comma between JSON lines",
        CHECK,
        lines('{"text": "sun", "label": "a"},', '{"text": "rain", "label": "b"}'),
        3,
        r"Expected one JSON object per line in \S+, found something else on row 1: Extra data \(column 30\)\. Write",
    ),
    Case(
        "nested JSON",
        CHECK,
        lines('{"text": "sun", "label": "a", "more": ' + "[" * 10_000 + "]" * 10_000 + "}"),
        3,
        "on row 1: values nested too deeply",
    ),
    Case(
        "labels of several types",
        CHECK,
        labelled(1, "1", True),
        3,
        r"found 3 types: boolean True \(row 3\), number 1 \(row 1\), string '1' \(row 2\)\. Write all labels as",
    ),
    Case(
        "Parquet file that is cut off",
        CHECK,
        cut(parquet(text=["sun", "rain"], label=["a", "b"]), -20),
        3,
        r"Expected a Parquet file, cannot read \S+/reviews.parquet: .* copy or write it again",
    ),
    Case("pipe", CHECK, pipe, 3, r"found a pipe, socket or device at \S+\. Pass one of its files, or a copy"),
    Case(
        "file that grows",
        CHECK,
        growing,
        3,
        r"Expected \S+/reviews.csv to stay as it is while it is read, found that it has changed\. Wait",
    ),
    Case("shard without rows", CHECK, shards, 3, r"train-00001-of-00002.csv has no rows\. Check that it is complete"),
    Case(
        "one row ten thousand times",
        CHECK,
        table([*CLEAN, *[("sun", "a")] * 10_000]),
        0,
        r"duplicate texts in train with the same label: 9,999 rows \(15, .*\n.*\n.*Pass --deduplicate",
    ),
    Case(
        "one class", CHECK, labelled("a", "a"), 3, r"Expected two or more classes .* found \['a'\]\n.*\n.*Pass another"
    ),
    Case(
        "too few rows to split",
        PLAN + " --dataset {path}",
        table([("sun", "a"), ("rain", "b")]),
        3,
        r"Expected enough rows in \S+ to set some aside for test, found 2 rows in 2 classes\. Add rows",
    ),
    Case(
        "missing labels",
        CHECK,
        table([*CLEAN, ("fire", ""), ("smoke", " ")]),
        3,
        r"Expected a label for every text in column 'label' of \S+, found none in 2 rows \(14, 15\)\. Fill in",
    ),
    Case("label -1", CHECK, labelled(1, 0, -1), 3, r"found -1 in row 3, which looks like 'unlabelled'\. Delete"),
    Case("label with a fraction", CHECK, labelled(0, 1, 0.5), 3, r"found 0\.5 \(row 3\)"),
    Case(
        "labels in several spellings",
        CHECK,
        table([*CLEAN, ("fire", "A ")]),
        0,
        r"labels that differ only .* from a more frequent one \('a' and 'A '\): row 14",
    ),
    Case(
        "labels in several forms of Unicode",
        CHECK,
        table(
            [
                ("sun", "caf\u00e9"),
                ("fire", "caf\u00e9"),
                ("rain", "cafe\u0301"),
                ("snow", "caf\u00e9\u200b"),
                ("fog", "b"),
            ]
        ),
        0,
        r"more frequent one \('caf\u00e9' and 'cafe\\u0301' and 'caf\u00e9\\u200b'\): 2 rows \(4, 5\)",
    ),
    Case(
        "booleans as values and as words",
        CHECK,
        labelled(True, "True"),
        3,
        r"found 2 types: boolean True \(row 1\), string 'True' \(row 2\)",
    ),
    Case(
        "identifiers as labels",
        CHECK,
        table([(f"text {i}", f"id-{i}") for i in range(1200)]),
        3,
        r"1,200 different labels on 1,200 examples, such as 'id-0', which looks like an identifier",
    ),
    Case(
        "labels like paths",
        TRAIN + " --dataset {path}",
        table([(text, {"a": "../../a", "b": "\x1b[31mb/" + "b" * 300}[label]) for text, label in CLEAN]),
        0,
        r"labels \\x1b\[31mb/b{300}, \.\./\.\./a\n",
    ),
    Case("list as label", CHECK, labelled(["a", "b"], ["a"]), 3, r"found a list, \['a', 'b'\] \(row 1\)"),
    Case(
        "infinite label",
        CHECK,
        parquet(text=["sun", "rain"], label=[1.0, float("inf")]),
        3,
        r"column 'label' of \S+/reviews.parquet, found inf \(row 2\)",
    ),
    Case(
        "one class nearly alone",
        TRAIN + " --dataset {path}",
        table([(f"text of {i}", "a" if i % 30 else "b") for i in range(120)]),
        0,
        r"majority baseline\n-+\naccuracy ",
    ),
    Case(
        "labels within their texts",
        CHECK,
        table([(f"{name} number {i} is there", name) for i in range(40) for name in ("sunshine", "rainfall")]),
        0,
        r"names of classes in their texts in train \('rainfall' in 40 texts of 'rainfall' .* 80 rows \(2, 3",
    ),
    Case(
        "class that train lacks",
        CHECK,
        folder(train=CLEAN, test=[*OTHERS, ("fire", "c")]),
        3,
        r"error: Expected only labels of train \('a', 'b'\) in \S+/test.csv \(test\), found 'c' in row 14\n",
    ),
    Case(
        "class that test lacks",
        CHECK,
        folder(train=[*CLEAN, ("fire", "c"), ("smoke", "c")], test=OTHERS),
        0,
        r"1 of 3 classes have no example in test \('c'\)",
    ),
    Case(
        "texts of train in test",
        CHECK,
        folder(train=CLEAN, test=[*OTHERS, ("  SUN over sunshire today", "a")]),
        0,
        r"texts in test that are also in train: row 14\n.*\n.*Pass --deduplicate",
    ),
    Case(
        "one text with two labels",
        CHECK,
        table([*CLEAN, (CLEAN[0][0], "b")]),
        0,
        r"duplicate texts in train with conflicting labels: row 14\n.*\n.*Decide on one label",
    ),
    Case(
        "no validation split",
        PLAN + " --dataset {path}",
        folder(train=CLEAN, test=OTHERS),
        0,
        "no validation split: held out 1 examples of train",
    ),
    Case(
        "validation split of one row",
        TRAIN + " --dataset {path}",
        folder(train=CLEAN, validation=OTHERS[:1], test=OTHERS),
        0,
        r"1 of 2 classes have no example in validation \('b'\)",
    ),
    Case(
        "one file as two splits",
        CHECK,
        twice,
        3,
        r"Expected a file of its own for each split in \S+, found test.csv and train.csv, which are one\. ",
    ),
    Case(
        "one group",
        PLAN + " --dataset {path} --group-column author",
        table([(*row, "ann") for row in CLEAN], header=("text", "label", "author")),
        3,
        r"found 12 rows in 2 classes and 1 group\. Add rows, .* in different groups",
    ),
    Case(
        "text of a megabyte",
        CHECK + " --model {model}",
        table([*CLEAN, ("good film " * 100_000, "a")]),
        0,
        r"texts in train of more than 64 tokens: row 14\n.*\n.*Raise --max-length",
    ),
    Case(
        "words the tokenizer does not know",
        CHECK + " --model {model}",
        table([(f"\u0447\u0442\u043e \u0442\u043e {i}", "ab"[i % 2]) for i in range(9)]),
        0,
        r"texts in train with tokens that \S+ does not know: 9 rows \(2, 3",
    ),
    Case(
        "column that a template lacks",
        CHECK + " --text-column {{title}}:{{boddy}}",
        table([("sun", "", "a")], header=("title", "body", "label")),
        3,
        r"Expected text column 'boddy' of the template '{title}:{boddy}' in .* Did you mean 'body'\?",
    ),
    Case(
        "special tokens as text",
        CHECK + " --model {model}",
        table([*CLEAN, ("a [SEP] b [PAD]", "a")]),
        0,
        r"texts in train that spell special tokens of \S+: row 14\n",
    ),
    Case(
        "more words than embeddings",
        "check {folder}/reviews.csv --model {path}",
        model(damage=more_words),
        2,
        r"Expected a tokenizer with at most 80 token ids, the encoder's embeddings, found 1\d\d\. ",
    ),
    Case(
        "signs of many kinds",
        PREDICT,
        table([(PERSON,), ("\u202e\u05d0\u05d1",), (f"e{ONES}",), ("\u6587" * 5000,)], header=("text",)),
        0,
        rf'"text": "{PERSON}".*\n.*"text": "\u202e\u05d0\u05d1".*\n.*{ONES}".*\n.*\u6587", "label"',
    ),
    Case(
        "unknown setting",
        "run sentiment --config {path}",
        content("config.json", '{"train": {"learning_rat": 1e-5}}'),
        2,
        r"Unknown setting 'learning_rat' in train in \S+/config.json\. Did you mean 'learning_rate'\?",
    ),
    Case(
        "number as a string",
        "run sentiment --config {path}",
        content("config.json", '{"train": {"learning_rate": "1e-5"}}'),
        2,
        r"Expected a number or null for learning_rate in train in \S+/config.json, found '1e-5'\.",
    ),
    Case(
        "settings that are YAML",
        "run sentiment --config {path}",
        content("config.json", "train: !!python/object/apply:os.system ['touch evil']\n"),
        2,
        r"Expected JSON in \S+/config.json, ",
    ),
    Case(
        "precision that the device lacks",
        TRAIN + " --dataset {path} --mixed-precision fp16",
        table(CLEAN),
        2,
        r"Expected a device with fp16, found the device cpu\. Pass --mixed-precision no\.",
    ),
    Case(
        "nothing to train",
        PLAN + " --dataset {path} --train-only norms",
        table(CLEAN),
        2,
        r"Expected an encoder that trains for --train-only norms, found it frozen\. Pass --freeze nothing",
    ),
    Case(
        "more layers than there are",
        PLAN + " --dataset {path} --freeze 13",
        table(CLEAN),
        2,
        r"Expected to freeze the lowest 13 layers, found an encoder with 2 layers\. Pass",
    ),
    Case(
        "folder with another run",
        TRAIN + " --dataset {path}",
        run_of_others,
        2,
        r"/run already holds a run\. Pass --resume to continue it, --overwrite to move it aside",
    ),
    Case(
        "batch larger than the data",
        TRAIN + " --dataset {path} --batch-size 1000",
        table(CLEAN),
        0,
        r"1 steps in (.*\n)*kept the model of step 1 \(epoch 1\)",
    ),
    Case(
        "weights that run code",
        "check {folder}/reviews.csv --model {path}",
        model(damage=lambda copy: (copy / "model.safetensors").rename(copy / "pytorch_model.bin")),
        4,
        r"Expected weights as safetensors in \S+, found pytorch_model.bin, which can run code\. Convert it",
    ),
    Case(
        "labels that the model does not know",
        "evaluate {saved} {path}",
        table(CLEAN),
        3,
        r"Expected only labels of the model \('negative', 'positive'\) in \S+, found others in 12 rows .* 'a'\. Rename",
    ),
    Case(
        "weights that are missing",
        "check {folder}/reviews.csv --model {path}",
        model(damage=weights(lambda found: found.pop("encoder.layer.1.output.dense.weight"))),
        4,
        r"Expected all weights of a bert model in \S+, found 1 missing: encoder.layer.1.output.dense.weight\. Download",
    ),
    Case(
        "weights that are no numbers",
        "check {folder}/reviews.csv --model {path}",
        model(damage=weights(lambda found: found["embeddings.word_embeddings.weight"][3].fill_(float("nan")))),
        4,
        r"Expected finite weights in \S+, found NaN or infinity in embeddings.word_embeddings.weight\. Pass another",
    ),
    Case(
        "decoder",
        "check {folder}/reviews.csv --model {path}",
        model({"model_type": "gpt2"}),
        2,
        r"Expected a text encoder, found 'gpt2' in \S+, a decoder, whose tokens do not see the next ones\. Pass an enc",
    ),
    Case(
        "settings that run code",
        "check {folder}/reviews.csv --model {path}",
        model({"auto_map": {"AutoModel": "evil.Model"}}),
        4,
        r"Expected plain settings in \S+/config.json, found 'auto_map', which can make a loader run or download code\.",
    ),
    Case(
        "adapter beside a model",
        "check {folder}/reviews.csv --model {path}",
        model(damage=lambda copy: (copy / "adapter_config.json").write_text('{"base_model_name_or_path": "other"}')),
        4,
        r"Expected a whole model in \S+, found adapter_config.json beside it\. Merge the adapter",
    ),
    Case(
        "object without its text",
        PREDICT,
        lines({"text": "sun"}, {"texts": "rain"}),
        3,
        r"Expected key 'text' in each object of \S+, found \['texts'\] \(row 2\)\. Add the key",
    ),
    Case(
        "standard input that is no text",
        PREDICT,
        standard_input(b"sun\nrain \xff\n"),
        3,
        r"Expected text in standard input, found .* \(row 2\)\.",
    ),
    Case(
        "file that unpacks without end",
        CHECK,
        content("reviews.csv.gz", gzip.compress(b"text,label\n" + b" " * 2**25, mtime=0)),
        3,
        r"Expected at most 200 times the size of the compressed file in \S+, found more\. Unpack it",
    ),
    Case(
        "output into nowhere",
        PREDICT + " --output {folder}/nowhere/labels.csv",
        table(CLEAN),
        6,
        r"Expected to write \S+/labels.csv, found no folder \S+/nowhere\. Pass a file in a folder that exists",
    ),
    Case(
        "model that is not there",
        "predict {folder}/../../nowhere --text sun",
        lambda desk: None,
        2,
        r"Expected the folder of a pretrained model, found nothing at \S+/nowhere\. Pass a folder with",
    ),
    Case(
        "folder that another process trains in",
        TRAIN + " --dataset {path}",
        busy,
        2,
        r"Expected a folder that no other process trains in, found \S+/run in use by pid 1 on there\. Wait until",
    ),
]


@pytest.fixture(scope="module")
def saved(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved classifier whose head is random."""
    target = tmp_path_factory.mktemp("saved") / "model"
    Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"]).save(target)
    return target


@pytest.fixture
def desk(tmp_path: Path, tiny_bert: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk(tmp_path, tiny_bert, saved, monkeypatch, [])
    yield desk
    for undo in desk.undo:
        undo()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_one_message(case: Case, desk: Desk, capsys: pytest.CaptureFixture[str]):
    path = case.write(desk)
    places = {"path": path, "folder": desk.folder, "model": desk.model, "saved": desk.saved}
    code = 0
    try:
        cli.main([word.format(**places) for word in case.words.split()])
    except SystemExit as exit:
        code = exit.code
    out, err = capsys.readouterr()
    said = out + err
    assert (code, "Traceback" in said) == (case.code, False), said
    assert err.count("nlptl: error: ") == (code != 0)
    assert re.search(case.message, said), said


def test_every_kind_of_bad_input_has_its_case():
    assert len(CASES) == len({case.name for case in CASES}) == 75
    assert len({case.message for case in CASES}) == 75
