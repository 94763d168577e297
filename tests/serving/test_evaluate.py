"""Scores of a saved model on labelled data, through the command line."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from nlptl import Classifier, cli
from nlptl.data.sources import Examples, read_file
from nlptl.serving.calibrate import CalibrateConfig, calibrate
from nlptl.serving.evaluate import EvaluateConfig, evaluate, read_labelled
from tests.conftest import toy_rows


def write_rows(path: Path, rows: Sequence[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def refused(words: Sequence[object], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, expect `code` and one message on standard error, and return it."""
    with pytest.raises(SystemExit) as exit:
        cli.main([str(word) for word in words])
    err = capsys.readouterr().err
    assert exit.value.code == code
    assert err.startswith("nlptl: error: ")
    assert err.count("\n") == 1
    return err


def test_scores_are_those_of_scikit_learn(
    model_dir: Path, toy_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "scores.json"
    cli.main(["evaluate", str(model_dir), str(toy_csv), "--output", str(path)])
    out, err = capsys.readouterr()
    assert err == ""

    examples = read_file(toy_csv)
    model = Classifier.from_pretrained(model_dir)
    probabilities = model.predict_probabilities(examples.texts).numpy()
    predicted = np.array(model.labels.names)[probabilities.argmax(axis=1)]
    expected = {
        "accuracy": metrics.accuracy_score(examples.labels, predicted),
        "macro_f1": metrics.f1_score(examples.labels, predicted, average="macro", zero_division=0),
        "weighted_f1": metrics.f1_score(examples.labels, predicted, average="weighted", zero_division=0),
        "precision": metrics.precision_score(examples.labels, predicted, average="macro", zero_division=0),
        "recall": metrics.recall_score(examples.labels, predicted, average="macro", zero_division=0),
        "matthews": metrics.matthews_corrcoef(examples.labels, predicted),
        "log_loss": metrics.log_loss(examples.labels, probabilities, labels=list(model.labels.names)),
    }
    scores = json.loads(path.read_text())["test"]
    per_class = scores.pop("per_class")
    assert {name: score["value"] for name, score in scores.items()} == pytest.approx(expected)
    assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())
    assert {score["n"] for score in scores.values()} == {120}
    f1 = metrics.f1_score(examples.labels, predicted, average=None, zero_division=0)
    assert [per_class[name]["f1"]["value"] for name in model.labels.names] == pytest.approx(list(f1))

    for name, value in expected.items():
        row = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        assert f"{value:.4f}" in row
    assert any(line.split()[:1] == ["positive"] for line in out.splitlines())
    assert out.endswith(f"wrote the scores to {path}\n")


def test_python_gets_the_scores_and_writes_nothing(model_dir: Path, toy_csv: Path, tmp_path: Path):
    scores = evaluate(EvaluateConfig(model_dir=str(model_dir), dataset=str(toy_csv)))
    again = evaluate(EvaluateConfig(model_dir=str(model_dir), dataset=str(toy_csv), output=tmp_path / "s.json"))
    assert scores == again
    assert json.loads((tmp_path / "s.json").read_text()) == {"test": scores.to_json()}


def test_a_file_is_scored_whole_and_a_folder_by_its_test_split(model_dir: Path, toy_csv: Path, tmp_path: Path):
    examples = read_file(toy_csv)
    rows = list(zip(examples.texts, examples.labels, strict=True))
    write_rows(tmp_path / "train.csv", rows[:80])
    test = write_rows(tmp_path / "test.csv", rows[80:])
    by_folder = evaluate(EvaluateConfig(model_dir=str(model_dir), dataset=str(tmp_path)))
    assert by_folder["accuracy"].n == 40
    assert by_folder == evaluate(EvaluateConfig(model_dir=str(model_dir), dataset=str(test)))


@pytest.mark.parametrize("flags", [[], ["--split-seed", "3"]])
def test_what_is_set_aside_is_what_training_has_set_aside(flags: list[str], tiny_bert: Path, tmp_path: Path):
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data/train.csv", toy_rows(120))
    run = tmp_path / "run"
    words = ["--dataset", tmp_path / "data", "--model", tiny_bert, "--num-epochs", "1", "--seed", "5"]
    cli.main([str(word) for word in ["run", "sentiment", *words, *flags, "--output-dir", run]])
    model, read = str(run / "model"), []

    def noted(*args: Any, **settings: Any) -> Examples:
        read.append(read_labelled(*args, **settings))
        return read[-1]

    split_seed = int(flags[-1]) if flags else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nlptl.serving.evaluate.read_labelled", noted)
        patch.setattr("nlptl.serving.calibrate.read_labelled", noted)
        evaluate(EvaluateConfig(model_dir=model, dataset=str(tmp_path / "data"), seed=5, split_seed=split_seed))
        calibrate(CalibrateConfig(model_dir=model, dataset=str(tmp_path / "data"), split_seed=split_seed))
    rows = json.loads((run / "splits.json").read_text())
    assert [list(examples.rows) for examples in read] == [rows["test"], rows["validation"]]


def test_columns_are_given(model_dir: Path, toy_csv: Path, tmp_path: Path):
    examples = read_file(toy_csv)
    rows = list(zip(examples.texts, examples.labels, strict=True))
    path = write_rows(tmp_path / "a.csv", rows, ("review", "stars"))
    with_flags = EvaluateConfig(model_dir=str(model_dir), dataset=str(path), text_column="review", label_column="stars")
    assert evaluate(with_flags) == evaluate(EvaluateConfig(model_dir=str(model_dir), dataset=str(toy_csv)))


def test_one_class_is_enough_to_be_scored(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_rows(tmp_path / "a.csv", [("good", "positive"), ("a great film", "positive"), ("bad", "positive")])
    output = tmp_path / "scores.json"
    cli.main(["evaluate", str(model_dir), str(path), "--output", str(output)])
    scores = json.loads(output.read_text())["test"]
    assert scores["accuracy"]["n"] == 3
    assert scores["matthews"]["value"] == 0
    assert scores["per_class"]["negative"]["recall"] == {"value": None, "low": None, "high": None, "n": 0}
    assert "nan" in capsys.readouterr().out


def test_labels_that_the_model_does_not_know(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_rows(tmp_path / "a.csv", [("good", "positive"), ("bad", "Negative"), ("dull", "neutral")])
    message = refused(["evaluate", model_dir, path, "--output", tmp_path / "scores.json"], 3, capsys)
    expected = f"Expected only labels of the model ('negative', 'positive') in {path}, found others in 2 rows (3, 4), "
    assert expected + "the first of them 'Negative'. Rename or delete these rows" in message
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("-", 2, "Expected an output file in .json, found '-'"),
        ("scores.csv", 2, "Expected an output file in .json, found 'scores.csv'"),
        ("none/scores.json", 6, "found no folder none"),
        ("folder.json", 6, "found a folder of that name"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_first(
    output: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()
    assert message in refused(["evaluate", "no/such/model", "no.csv", "--output", output], code, capsys)


def test_data_and_model_that_are_not_there(
    model_dir: Path, toy_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert "found nothing at" in refused(["evaluate", model_dir, f"{tmp_path}/no.csv"], 3, capsys)
    assert "found nothing at" in refused(["evaluate", f"{tmp_path}/model", toy_csv], 2, capsys)
    assert "Expected text column 'x'" in refused(["evaluate", model_dir, toy_csv, "--text-column", "x"], 3, capsys)
    empty = write_rows(tmp_path / "a.csv", [])
    assert "has no rows" in refused(["evaluate", model_dir, empty], 3, capsys)


def test_a_file_that_is_scored_whole_has_no_groups(model_dir: Path, toy_csv: Path, capsys: pytest.CaptureFixture[str]):
    message = refused(["evaluate", model_dir, toy_csv, "--group-column", "author"], 2, capsys)
    assert "found 'author'. Leave out --group-column." in message
