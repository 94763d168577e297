"""A whole training from Python, and what it leaves in its folder, recomputed from there."""

import csv
import json

import numpy as np
import pytest
from sklearn import metrics

from nlptl import Classifier, Run, Score, Trainer, TrainingConfig, load_splits
from nlptl.data.splits import NAMES
from nlptl.training.run import sha256_of


def test_block_of_the_readme(tiny_bert, toy_csv, tmp_path):
    splits = load_splits(toy_csv, text_column="text", label_column="label", seed=0)
    model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, max_length=24, freeze="encoder")
    config = TrainingConfig(num_epochs=100, batch_size=32, learning_rate=3e-2)
    trainer = Trainer(model, config, output_dir=tmp_path / "runs/reviews", seed=0)
    trainer.fit(splits["train"], validation=splits["validation"])
    scores = trainer.evaluate(splits["test"])
    score = scores["accuracy"]
    assert isinstance(score, Score)
    assert score.n == 12
    assert 0.75 <= score.value <= 1
    assert score.low <= score.value <= score.high
    (prediction,) = model.predict(["A great movie, superb and lovely."])
    assert prediction.label in splits.labels.names
    assert prediction.probability == prediction.probabilities[prediction.label] >= 0.5


def test_manifest_identifies_data_and_encoder(build_model, splits, tmp_path):
    found = {}
    for name, train in (("one", splits["train"]), ("two", splits["train"].select(range(90)))):
        Trainer(build_model(max_length=20), TrainingConfig(num_epochs=1), output_dir=tmp_path / name, seed=4).fit(train)
        found[name] = json.loads((tmp_path / name / "manifest.json").read_text())
    one, two = found.values()
    assert one["encoder_sha256"] == two["encoder_sha256"]
    assert one["data_sha256"] != two["data_sha256"]
    assert one["splits_sha256"] != two["splits_sha256"]
    encoder = {n: p.detach().numpy().tobytes() for n, p in build_model().network.base_model.named_parameters()}
    assert one["encoder_sha256"] == sha256_of(encoder)
    expected = {"seed": 4, "max_length": 20, "pooling": "native", "freeze": "nothing", "lora_rank": None}
    assert one["learning_rates"]["layer 1"] == 5e-5
    assert {key: one[key] for key in expected} == expected
    assert one["labels"] == ["negative", "positive"]


def test_run_folder_agrees_with_scikit_learn(build_model, splits, tmp_path):
    config = TrainingConfig(num_epochs=3, learning_rate=0.01)
    run = Run.open(tmp_path / "run", config)
    run.record_splits(splits)
    trainer = Trainer(build_model(max_length=12, freeze="encoder"), config, output_dir=run)
    trainer.fit(splits["train"], validation=splits["validation"])
    trainer.evaluate(splits["test"])
    assert sorted(path.name for path in run.path.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "costs.json",
        "data_report.json",
        "manifest.json",
        "metrics.jsonl",
        "model",
        "predictions.csv",
        "scores.json",
        "splits.json",
    ]
    with (run.path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == splits["test"].rows
    labels, predicted = ([row[key] for row in rows] for key in ("label", "predicted"))
    assert labels == splits["test"].labels
    shares = np.array([[float(row[f"probability_{name}"]) for name in ("negative", "positive")] for row in rows])
    assert predicted == [("negative", "positive")[i] for i in shares.argmax(axis=1)]
    assert [float(row["probability"]) for row in rows] == shares.max(axis=1).tolist()
    np.testing.assert_allclose(shares, trainer.model.predict_probabilities(splits["test"].texts).numpy(), atol=1e-6)

    scores = json.loads((run.path / "scores.json").read_text())
    average = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "macro_f1": metrics.f1_score(labels, predicted, **average),
        "weighted_f1": metrics.f1_score(labels, predicted, average="weighted", zero_division=0),
        "precision": metrics.precision_score(labels, predicted, **average),
        "recall": metrics.recall_score(labels, predicted, **average),
        "matthews": metrics.matthews_corrcoef(labels, predicted),
        "log_loss": metrics.log_loss(labels, shares, labels=["negative", "positive"]),
    }
    for metric, value in expected.items():
        score = scores["test"][metric]
        assert score["value"] == pytest.approx(value), metric
        assert score["low"] <= score["value"] <= score["high"]
        assert score["n"] == 12
    assert scores.keys() == {"validation", "test", "majority_baseline"}
    assert scores["majority_baseline"]["test"]["accuracy"]["value"] == 0.5
    assert scores["majority_baseline"].keys() == {"validation", "test"}
    last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["validation_accuracy"] <= scores["validation"]["accuracy"]["value"]

    report = json.loads((run.path / "data_report.json").read_text())
    assert report["labels"]["train"] == {"positive": 48, "negative": 48}
    lengths = np.array([len(trainer.model.tokenizer(text)["input_ids"]) for text in splits["train"].texts])
    assert report["truncation"]["train"]["cut_texts"] == pytest.approx((lengths > 12).mean())
    lost = np.maximum(lengths - 12, 0).sum() / lengths.sum()
    assert report["truncation"]["train"]["cut_tokens"] == pytest.approx(lost)
    assert report["truncation"].keys() == {"train", "validation", "test"}
    assert json.loads((run.path / "splits.json").read_text()) == {name: list(splits[name].rows) for name in NAMES}
