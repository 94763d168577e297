"""The report and the card at the end of a training, which neither change it nor can lose it."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from nlptl import Classifier, TrainingConfig, train_classifier
from nlptl.config import ClassificationConfig, JudgingConfig
from tests.judging.test_report import check_page

FILES = ("model/model.safetensors", "model/config.json", "model/nlptl.json", "scores.json", "predictions.csv")


@pytest.fixture
def config(tiny_bert: Path, toy_csv: Path, tmp_path: Path) -> ClassificationConfig:
    return ClassificationConfig(
        model=str(tiny_bert),
        dataset=str(toy_csv),
        output_dir=tmp_path / "run",
        near_duplicates=False,
        train=TrainingConfig(num_epochs=2, batch_size=16, learning_rate=1e-3),
    )


def test_a_training_ends_with_a_report_and_a_card(config: ClassificationConfig, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="nlptl")
    scores = train_classifier(config)
    folder = config.output_dir
    page = check_page((folder / "report.html").read_text(encoding="utf-8"))
    assert f"{scores['accuracy'].value:.3f}" in page.text("dd")
    assert f"wrote the report to {folder / 'report.html'}" in caplog.text
    card = ModelCard.load(folder / "model" / "README.md")
    assert card.data.eval_results[0].metric_value == pytest.approx(scores["accuracy"].value, abs=5e-5)
    assert json.loads((folder / "data_report.json").read_text())["data_sha256"] in card.text
    Classifier.from_pretrained(folder / "model")

    without = replace(config, output_dir=folder.with_name("without"), judging=JudgingConfig(report=False))
    assert train_classifier(without) == scores
    assert not (without.output_dir / "report.html").exists()
    assert "## Scores" not in (without.output_dir / "model" / "README.md").read_text()
    for file in FILES:
        assert (folder / file).read_bytes() == (without.output_dir / file).read_bytes()


def test_a_report_that_fails_leaves_the_run_as_it_is(
    config: ClassificationConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "jinja2", None)  # as where it is not installed
    scores = train_classifier(config)
    assert scores["accuracy"].n == 12
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    message = record.getMessage()
    assert message.startswith(f"Cannot write the report of {config.output_dir}: ModuleNotFoundError")
    assert f"Run nlptl report {config.output_dir} to try again, or train with report=False" in message
    assert json.loads((config.output_dir / "scores.json").read_text())["test"]["accuracy"]["n"] == 12
    Classifier.from_pretrained(config.output_dir / "model")
