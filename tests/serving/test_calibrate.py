"""A model folder is calibrated on other data, and predict goes by it."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from nlptl import Classifier, MultiLabel, Regression, Trainer, TrainingConfig, cli, load_splits
from nlptl.data.sources import read_file
from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.evaluation.calibration import fit_temperature
from nlptl.serving.calibrate import CalibrateConfig, calibrate
from nlptl.serving.predict import PredictConfig, predict
from nlptl.tasks.single_label import SingleLabel


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """Return a saved classifier of two labels with a random head whose logits are large."""
    model = Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"], seed=4)
    with torch.no_grad():
        model.network.classifier.weight.mul_(20)
    model.save(tmp_path / "model")
    return tmp_path / "model"


def rows_of(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_the_temperature_is_used_by_predict_and_python_alike(folder: Path, toy_csv: Path, capsys):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    before = json.loads(files["nlptl.json"])
    cli.main(["calibrate", str(folder), str(toy_csv)])
    out, err = capsys.readouterr()
    assert err == ""
    after = json.loads((folder / "nlptl.json").read_text())
    examples = read_file(toy_csv)
    model = Classifier.from_pretrained(folder)
    logits = model.predict_logits(examples.texts)
    expected = fit_temperature(model.task.targets(examples), logits.double().numpy())
    assert after == before | {"calibration": {"method": "temperature", "temperature": expected.temperature}}
    assert expected.temperature > 2
    assert f"on these 120 texts: calibration (temperature {expected.temperature:.4g}): ece " in out
    assert out.endswith(f"wrote {folder / 'nlptl.json'}\n")
    changed = [name for name, content in files.items() if (folder / name).read_bytes() != content]
    assert changed == ["nlptl.json"]
    assert sorted(files) == sorted(path.name for path in folder.iterdir())

    text = "a great film , never dull ."
    cli.main(["predict", str(folder), "--text", text])
    (row,) = rows_of(capsys.readouterr().out)
    (prediction,) = model.predict([text])
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        raw = stock(**model.tokenizer(text, return_tensors="pt")).logits
    shares = (raw.double() / after["calibration"]["temperature"]).softmax(dim=1)[0].tolist()
    names = model.labels.names
    assert [row[f"probability_{name}"] for name in names] == pytest.approx(shares, abs=1e-6)
    assert row["probability"] == max(prediction.probabilities.values())
    assert [prediction.probabilities[name] for name in names] == pytest.approx(shares, abs=1e-6)
    assert model.predict_probabilities([text])[0].tolist() == pytest.approx(shares, abs=1e-6)


def test_decisions_are_said_by_predict(folder: Path, toy_csv: Path, tmp_path: Path, capsys):
    flags = ["--coverage", "0.8", "--out-of-scope", "0.9", "--target-accuracy", "0.65"]
    cli.main(["calibrate", str(folder), str(toy_csv), *flags])
    capsys.readouterr()
    examples, model = read_file(toy_csv), Classifier.from_pretrained(folder)
    assert isinstance(model.task, SingleLabel)
    expected = model.predict(examples.texts)
    labels = [prediction.label for prediction in expected]
    assert labels.count("out_of_scope") == 12
    assert 0 < labels.count(None) < 100

    output = tmp_path / "labelled.csv"
    cli.main(["predict", str(folder), "--input", str(toy_csv), "--output", str(output)])
    err = capsys.readouterr().err
    assert "12 of 120 texts are out of scope\n" in err
    assert f"{labels.count(None)} of 120 texts get no label: probability below " in err
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] or None for row in rows] == labels
    assert [tuple(json.loads(row["label_set"])) for row in rows] == [each.label_set for each in expected]
    held = [label in each.label_set for label, each in zip(examples.labels, expected, strict=True)]
    assert np.mean(held) >= 0.8

    cli.main(["predict", str(folder), "--input", str(toy_csv), "--abstain-below", "0.6"])
    captured = capsys.readouterr()
    rows = rows_of(captured.out)
    in_scope = [row for row in rows if row["label"] != "out_of_scope"]
    assert all((row["label"] is None) == (row["probability"] < 0.6) for row in in_scope)
    assert "texts get no label: probability below 0.6" in captured.err
    cli.main(["predict", str(folder), "--input", str(toy_csv), "--abstain-below", "0"])
    captured = capsys.readouterr()
    assert None not in [row["label"] for row in rows_of(captured.out)]
    assert "get no label" not in captured.err


def test_what_is_not_asked_for_is_dropped_and_a_calibration_can_be_kept(folder: Path, toy_csv: Path, caplog):
    caplog.set_level(logging.INFO, "nlptl.serving")
    first = calibrate(CalibrateConfig(model_dir=str(folder), dataset=str(toy_csv), coverage=0.9, calibration="vector"))
    assert first.calibration.method == "vector"
    assert Classifier.from_pretrained(folder).task == first
    kept = calibrate(
        CalibrateConfig(model_dir=str(folder), dataset=str(toy_csv), keep_calibration=True, threshold_metric="accuracy")
    )
    assert kept.calibration == first.calibration
    assert caplog.messages[-2] == "removed, because it was not requested: sets"
    assert (kept.decisions.sets, kept.decisions.threshold is None) == (None, False)
    assert Classifier.from_pretrained(folder).task == kept
    plain = calibrate(CalibrateConfig(model_dir=str(folder), dataset=str(toy_csv), calibration="none"))
    assert plain == SingleLabel(("negative", "positive"))
    assert caplog.messages[-2] == "removed, because it was not requested: calibration (vector), threshold"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    (folder.parent / "scores.json").write_text("{}")  # as in a run, whose report was made before
    calibrate(CalibrateConfig(model_dir=str(folder), dataset=str(toy_csv)))
    expected = f"to bring the report and the model card up to date, run nlptl report {folder.parent}"
    assert caplog.messages[-1] == expected


def test_few_texts_are_warned_of(folder: Path, toy_csv: Path, tmp_path: Path, caplog):
    few = tmp_path / "few.csv"
    few.write_text("".join(toy_csv.read_text().splitlines(keepends=True)[:50]))
    settings = {"model_dir": str(folder), "dataset": str(few)}

    def warned(**others: Any) -> list[str]:
        caplog.clear()
        calibrate(CalibrateConfig(**settings, **others))
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    message = "fitted on 49 texts: expect probabilities to be off; pass more, or --calibration none"
    assert warned() == [message]
    assert warned(keep_calibration=True, out_of_scope=0.9) == [
        "fitted on 49 texts: expect decisions to be off; pass more"
    ]
    assert warned(keep_calibration=True) == warned(calibration="none") == []


def test_labels_of_a_text_get_scales_and_thresholds(tiny_bert: Path, tmp_path: Path, caplog):
    path = tmp_path / "data.jsonl"
    texts = ["good film", "bad film", "good and bad film", "film", "great good", "dull bad ."] * 5
    labels = [["p"], ["n"], ["p", "n"], [], ["p"], ["n"]] * 5
    rows = [{"text": text, "labels": names} for text, names in zip(texts, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Classifier.from_pretrained(tiny_bert, task=MultiLabel(("n", "p"))).save(tmp_path / "model")
    task = calibrate(CalibrateConfig(model_dir=str(tmp_path / "model"), dataset=str(path), threshold_metric="matthews"))
    assert task.calibration.method == "platt"
    assert len(task.thresholds) == 2
    assert Classifier.from_pretrained(tmp_path / "model").task == task
    caplog.set_level(logging.INFO, "nlptl.serving")
    calibrate(CalibrateConfig(model_dir=str(tmp_path / "model"), dataset=str(path), calibration="none"))
    assert caplog.messages[-2] == "removed, because it was not requested: calibration (platt)"


def test_what_cannot_be_calibrated(folder: Path, tiny_bert: Path, toy_csv: Path, tmp_path: Path):
    before = (folder / "nlptl.json").read_bytes()
    with pytest.raises(ConfigError, match="Expected a folder with nlptl.json on this machine, found none at"):
        calibrate(CalibrateConfig(model_dir="owner/name", dataset=str(toy_csv)))
    with pytest.raises(ConfigError, match="Expected --calibration none or --keep-calibration, found both"):
        CalibrateConfig(model_dir="x", dataset="y", calibration="none", keep_calibration=True)
    with pytest.raises(ConfigError, match="coverage must be a number above 0 and below 1 or None, found 2"):
        CalibrateConfig(model_dir="x", dataset="y", coverage=2)
    said = Classifier.from_pretrained(folder).predict(["good"])[0].label
    (tmp_path / "wrong.csv").write_text(f"text,label\ngood,{'negative' if said == 'positive' else 'positive'}\n")
    with pytest.raises(ConfigError, match="right with probability 0.9 above some probability, found none: every text"):
        calibrate(CalibrateConfig(model_dir=str(folder), dataset=str(tmp_path / "wrong.csv"), target_accuracy=0.9))
    (tmp_path / "few.csv").write_text("text,label\ngood,positive\nbad,negative\n")
    with pytest.raises(ConfigError, match="Expected more than 2 held-out texts, or a better model, for --coverage 0.9"):
        calibrate(CalibrateConfig(model_dir=str(folder), dataset=str(tmp_path / "few.csv"), coverage=0.9))
    assert (folder / "nlptl.json").read_bytes() == before
    Classifier.from_pretrained(tiny_bert, task=Regression(("score",))).save(tmp_path / "scores")
    with pytest.raises(ConfigError, match="Expected a model that gives probabilities, found the task regression"):
        calibrate(CalibrateConfig(model_dir=str(tmp_path / "scores"), dataset=str(toy_csv)))
    Classifier.from_pretrained(tiny_bert, task=MultiLabel(("a", "b"))).save(tmp_path / "sets")
    with pytest.raises(ConfigError, match="gives each text one label, found the task multi_label"):
        predict(PredictConfig(model_dir=str(tmp_path / "sets"), text=("a",), abstain_below=0.5))


def test_a_damaged_calibration_is_refused_and_an_old_folder_is_not(folder: Path):
    path = folder / "nlptl.json"
    card = json.loads(path.read_text())
    for change in (
        {"calibration": {"method": "temperature", "temperature": 0.0}},
        {"calibration": {"method": "temperature", "temperature": float("nan")}},
        {"calibration": "hot"},
        {"decisions": {"threshold": 7}},
        {"decisions": {"sets": {}}},
    ):
        path.write_text(json.dumps(card | change))
        with pytest.raises(UntrustedFileError, match=r"Expected the settings of a saved classifier, cannot read"):
            Classifier.from_pretrained(folder)
    path.write_text(json.dumps({key: value for key, value in card.items() if key not in ("calibration", "decisions")}))
    assert Classifier.from_pretrained(folder).task == SingleLabel(("negative", "positive"))


def test_a_model_that_is_trained_on_forgets_its_calibration(folder: Path, toy_csv: Path, tmp_path: Path):
    calibrate(CalibrateConfig(model_dir=str(folder), dataset=str(toy_csv), coverage=0.9))
    splits = load_splits(toy_csv, near_duplicates=False)
    model = Classifier.from_pretrained(folder, freeze="encoder")
    assert model.task.calibration.method == "temperature"
    Trainer(model, TrainingConfig(num_epochs=1, learning_rate=1e-12)).fit(splits.train)
    assert model.task == SingleLabel(("negative", "positive"))
    Trainer(model, TrainingConfig(num_epochs=1, learning_rate=1e-12)).fit(splits.train, validation=splits.validation)
    assert model.task.calibration.method == "temperature"
    assert model.task.decisions.sets is None
    with pytest.raises(ConfigError, match="Expected a validation split for --coverage, found none"):
        Trainer(model, TrainingConfig(coverage=0.9)).fit(splits.train)


@pytest.mark.nightly
def test_small_data_makes_overconfident_and_calibration_halves_the_error(tmp_path: Path, capsys):
    """A full fine-tuning on 200 texts, scored by its last weights on 1,000 others, with validation of 200."""
    reviews = load_splits("sample:rotten_tomatoes", near_duplicates=False).train
    order = np.random.default_rng(0).permutation(len(reviews))
    for split, rows in {"train": order[:200], "validation": order[200:400], "test": order[400:1400]}.items():
        with (tmp_path / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *((reviews.texts[i], reviews.labels[i]) for i in rows)])
    run = tmp_path / "run"
    flags = ["--max-length", "40", "--num-epochs", "10", "--batch-size", "16", "--learning-rate", "1e-4"]
    flags += ["--eval-steps", "130"]
    cli.main(["run", "sentiment", "--freeze", "nothing", "--dataset", str(tmp_path), *flags, "--output-dir", str(run)])
    capsys.readouterr()
    model = Classifier.from_pretrained(run / "model")
    test = read_file(tmp_path / "test.csv")
    logits, targets = model.predict_logits(test.texts), model.task.targets(test)
    figures = model.task.describe_calibration(targets, logits)
    assert figures["before"]["ece"] > 0.1
    assert figures["after"]["ece"] < figures["before"]["ece"] / 2
    plain = model.task.uncalibrated()
    accuracies = [task.score(targets, task.outputs(logits), seed=0)["accuracy"] for task in (plain, model.task)]
    assert accuracies[0] == accuracies[1]
    scored = json.loads((run / "scores.json").read_text())["test"]["accuracy"]["value"]
    assert scored == pytest.approx(accuracies[0].value, abs=0.002)
    cli.main(["predict", str(run / "model"), "--text", test.texts[0]])
    (row,) = rows_of(capsys.readouterr().out)
    (alone,) = model.predict(test.texts[:1])
    assert row["probability"] == pytest.approx(alone.probability, abs=1e-12)
    temperature = json.loads((run / "model/nlptl.json").read_text())["calibration"]["temperature"]
    raw = plain.outputs(model.predict_logits(test.texts[:1]))
    odds = np.log(raw[0, 1] / raw[0, 0]) / temperature
    assert row["probability_positive"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-9)
