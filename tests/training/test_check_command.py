"""`nlptl check`, through the command line."""

import csv
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nlptl import ConfigError, DataError, cli, load_splits, make_task
from nlptl.data.findings import EXPLANATIONS
from nlptl.data.samples import sample_dataset


def write(path: Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


CLEAN = [
    (f"{word} {word}s alone", "xy"[i % 2]) for i, word in enumerate(["sun", "rain", "snow", "wind", "fog", "hail"])
]


def check(*words: object) -> int:
    """Return the exit code of the command."""
    try:
        cli.main(["check", *map(str, words)])
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def test_clean_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert check(write(tmp_path / "a.csv", CLEAN), "--strict") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-2:] == ["train: 6 texts, 2 classes", "found nothing"]
    assert err == ""


def test_warnings_go_on_and_stop_with_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path / "a.csv", [*CLEAN, ("", "x"), ("SUN suns alone", "x"), ("Rain rains alone", "x")])
    assert check(path, "--output", tmp_path / "report.json") == 0
    out = capsys.readouterr().out
    assert "found 3 warnings:\n" in out
    assert (
        out.index("conflicting labels: row 10")
        < out.index("empty texts in train: row 8")
        < out.index("same label: row 9")
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["labels"] == {"train": {"x": 6, "y": 3}}
    assert report["truncation"] == {}
    conflict = next(each for each in report["findings"] if each["kind"] == "conflict")
    assert conflict == {
        "kind": "conflict",
        "message": f"{path}: duplicate texts in train with conflicting labels: row 10",
        "count": 1,
        "rows": [10],
        "severity": "warning",
        "meaning": EXPLANATIONS["conflict"][0],
        "action": EXPLANATIONS["conflict"][1],
        "like": [],
    }
    assert check(path, "--strict") == 3
    out, err = capsys.readouterr()
    assert "found 3 warnings:\n" in out
    assert err == (
        "nlptl: error: Expected data without findings (--strict), found 3. The list above says how to fix each.\n"
    )


def test_all_errors_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "train.csv", [(text, "x") for text, _ in CLEAN])
    write(tmp_path / "test.csv", [("a", "y"), ("sun suns alone", "x")])
    assert check(tmp_path, "--output", tmp_path / "report.json") == 3
    out, err = capsys.readouterr()
    assert "found 2 errors and 1 warning:\nerror: Expected two or more classes" in out
    assert "error: Expected only labels of train" in out
    assert err.startswith("nlptl: error: Expected data without errors, found 2.")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [each["kind"] for each in report["findings"]] == ["one_class", "unknown_label", "leak"]


def test_columns_and_what_is_nearly_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = "one two three four five six seven eight nine ten"
    path = write(tmp_path / "a.csv", [*CLEAN, (text, "x"), (f"{text} eleven", "y")], header=("body", "queue"))
    flags = ("--text-column", "body", "--label-column", "queue", "--strict")
    assert check(path, *flags) == 3
    assert "near-duplicate texts in train: 1 row (9 ~ 8)" in capsys.readouterr().out
    assert check(path, *flags, "--no-near-duplicates") == 0


def test_a_group_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    header = ("text", "label", "author")
    write(tmp_path / "train.csv", [(*row, str(i)) for i, row in enumerate(CLEAN)], header)
    write(tmp_path / "test.csv", [("a calm day", "x", "7"), ("storm", "y", "3")], header)
    assert check(tmp_path, "--strict") == 0
    assert check(tmp_path, "--strict", "--group-column", "author") == 3
    assert "texts in test whose group is also in train: row 3\n" in capsys.readouterr().out


def test_what_the_tokenizer_cuts_and_does_not_know(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [("the film was good", "x"), ("the film was bad", "y"), ("the film was good and the film was bad", "x")]
    path = write(tmp_path / "a.csv", [*rows, ("\u732b film", "y")])
    words = (path, "--model", tiny_bert, "--max-length", 6, "--output", tmp_path / "report.json")
    assert check(*words) == 0
    out = capsys.readouterr().out
    # The first two texts have 4 tokens and 2 special ones: they fill max_length and are not cut.
    assert "texts in train of more than 6 tokens: row 4\n" in out
    assert "does not know: row 5\n" in out
    shares = json.loads((tmp_path / "report.json").read_text())["truncation"]["train"]
    assert shares["cut_texts"] == 0.25
    assert shares["cut_tokens"] == pytest.approx(5 / (6 + 6 + 11 + 4))
    assert shares["unknown_tokens"] > 0


def test_labels_that_are_likely_wrong(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [(f"the film was {'good' if i % 2 else 'bad'}", "yx"[i % 2]) for i in range(60)]
    train = write(tmp_path / "train.csv", [*rows, ("the film was bad", "x")])
    write(tmp_path / "test.csv", [*rows[:10], ("the film was good", "y")])
    words = (tmp_path, "--model", tiny_bert, "--output", tmp_path / "report.json", "--no-near-duplicates")
    assert check(*words) == 0
    assert "likely wrong" not in capsys.readouterr().out
    assert check(*words, "--label-errors") == 0
    out = capsys.readouterr().out
    assert f"{train}: labels in train that are likely wrong: 1 row (62 is 'x', likely 'y')\n" in out
    assert "labels in test that are likely wrong: 1 row (12 is 'y', likely 'x')\n" in out
    suspects = json.loads((tmp_path / "report.json").read_text())["label_errors"]
    assert {(each["split"], each["row"], each["label"], each["likely"]) for each in suspects} == {
        ("train", 62, "x", "y"),
        ("test", 12, "y", "x"),
    }
    assert all(each["margin"] < 0 for each in suspects)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--max-length", "6"], 2, "--max-length 6 needs an encoder. Pass one"),
        (["--label-errors"], 2, "--label-errors needs an encoder. Pass one"),
        (["--output", "report.csv"], 2, "Expected an output file in .json, found 'report.csv'"),
        (["--text-column", "body"], 3, "Expected text column 'body'"),
    ],
)
def test_what_cannot_be_obeyed(
    words: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert check(write(tmp_path / "a.csv", CLEAN), *words) == code
    assert message in capsys.readouterr().err


def test_no_torch_without_a_model(tmp_path: Path):
    path = write(tmp_path / "a.csv", CLEAN)
    code = f"import sys; from nlptl import cli; cli.main(['check', {str(path)!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert "nlptl.data.checks" in modules
    assert not {"torch", "transformers", "sklearn", "datasets"}.intersection(modules)


@pytest.mark.nightly
def test_all_that_was_planted_in_real_data_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Near duplicates across splits, flipped labels, texts that are cut off and a word that gives a class away."""
    draw = random.Random(0)
    sample = sample_dataset("sample:bbc_news")
    rows = [(" ".join(text.split()[:60]), label) for text, label in zip(sample.texts, sample.labels, strict=True)]
    draw.shuffle(rows)
    train, test, names = rows[:600], rows[600:800], sorted(set(sample.labels))
    flipped = {i: draw.choice([name for name in names if name != train[i][1]]) for i in draw.sample(range(600), 30)}
    long = set(draw.sample(range(600), 180))
    gives_away = [i for i, (_, label) in enumerate(train) if label == "sports" and i not in flipped][:40]
    copied = draw.sample(range(600), 16)
    for i in range(600):
        text, label = train[i]
        text += f" {text} {text} {text}" if i in long else ""
        train[i] = (f"{text} zyxwv" if i in gives_away else text, flipped.get(i, label))
    for place, i in enumerate(copied):
        words = rows[i][0].split()
        words[draw.randrange(len(words))] = "other"
        train_text = train[i][0].split()
        train_text[draw.randrange(30)] = "other"
        test[place] = (" ".join(train_text), rows[i][1])
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.csv", train)
    write(folder / "test.csv", test)
    words = [folder, "--model", "sample:minilm", "--max-length", "128", "--label-errors"]
    assert check(*words, "--output", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    found = {(each["kind"], "test" if " test" in each["message"] else "train"): each for each in report["findings"]}
    assert found[("near_leak", "test")]["count"] >= 0.95 * len(copied)
    assert 0.25 <= report["truncation"]["train"]["cut_texts"] <= 0.4
    assert found[("truncation", "train")]["count"] >= 0.95 * len(long)
    assert "'zyxwv' in 40 texts, all 'sports'" in found[("leaking_word", "train")]["message"]
    suspects = [each["row"] - 2 for each in report["label_errors"] if each["split"] == "train"]
    assert len(set(suspects) & set(flipped)) >= 0.6 * len(flipped)
    capsys.readouterr()


def test_special_tokens_of_pairs_are_counted_for_two_texts(tiny_bert: Path, tmp_path: Path):
    rows = [("good film", "bad film", "x"), ("a [SEP] b", "film", "y"), ("the story", "the plot", "x")]
    path = write(tmp_path / "a.csv", rows, ("text", "text2", "label"))
    assert check(path, "--pair-column", "text2", "--model", tiny_bert, "--output", tmp_path / "report.json") == 0
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert [each["rows"] for each in findings if each["kind"] == "special_token"] == [[3]]


WORDS = [["In", "Rome", str(i)] for i in range(12)]


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("tokens", [{"tokens": words, "tags": ["DT", "NN", "CD"]} for words in WORDS], "found 'CD'"),
        ("tokens", [{"tokens": words, "tags": [0, 1, 2]} for words in WORDS], "found '0'"),
        ("tokens", [{"tokens": words, "tags": ["O", "PER", "O"]} for words in WORDS], "found 'PER'"),
        ("tokens", [{"tokens": words, "tags": ["O", "O", "O"]} for words in WORDS], "found only O"),
        ("regression", [{"text": f"t {i}", "score": 3} for i in range(12)], "found 'score' to be 3 throughout"),
        (
            "regression",
            [{"text": f"t {i}", "score": 1e12 + i} for i in range(12)],
            "whose differences single precision",
        ),
        ("multi_label", [{"text": f"t {i}", "labels": ["a"] * (i % 2)} for i in range(12)], "found 'a' alone"),
        (
            "multi_label",
            [{"text": f"t {i}", "labels": []} for i in range(12)],
            "two or more labels in .* none",
        ),
        ("ordinal", [{"text": f"t {i}", "label": ["low", "high"][i % 2]} for i in range(12)], "labels in an order"),
        ("ordinal", [{"text": f"t {i}", "label": ["1", "1.0"][i % 2]} for i in range(12)], "labels in an order"),
        ("single_label", [{"text": f"t {i}", "label": "a"} for i in range(12)], "two or more classes"),
    ],
)
def test_what_training_refuses_is_an_error(task, rows, message, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Training and the check say the same of targets that cannot be trained on."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check(path, "--task", task, "--no-near-duplicates") == 3
    assert re.search(f"error: .*{message}", capsys.readouterr().out)
    with pytest.raises((DataError, ConfigError), match=message):
        make_task(load_splits(path, task=task, near_duplicates=False))


def test_tags_of_another_split_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, tag in (("train", "B-PER"), ("test", "PER")):
        rows = [{"tokens": words, "tags": ["O", tag, "O"]} for words in WORDS]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check(tmp_path, "--task", "tokens", "--no-near-duplicates") == 3
    assert "test.jsonl (test), found 'PER'" in capsys.readouterr().out


@pytest.mark.parametrize("order", [["low", "high"], ["low"], ["low", "mid", "low"]])
def test_an_order_of_labels_is_checked(order, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [(f"text {i}", ["low", "high"][i % 2]) for i in range(12)]
    path = write(tmp_path / "a.csv", rows)
    code = check(path, "--task", "ordinal", "--no-near-duplicates", "--label-order", *order)
    assert code == (0 if order == ["low", "high"] else 3)
    assert ("Expected every label of" in capsys.readouterr().out) == (code == 3)


def test_other_schemes_of_tags_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "iobes.conll"
    sentence = "In O\nNew B-LOC\nYork E-LOC\nand O\nRome{i} S-LOC\n\n"
    path.write_text("".join(sentence.format(i=i) for i in range(12)))
    assert check(path, "--task", "tokens", "--no-near-duplicates") == 0
    assert "tags are read as IOB2: E- as I-, S- as B- (24 tags)" in capsys.readouterr().out
    assert make_task(load_splits(path, task="tokens", near_duplicates=False)).names == ("O", "B-LOC", "I-LOC")
