"""Did transfer help: the table, what is trained for it, and what is said of the gain."""

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nlptl import ConfigError, TrainingConfig, cli, train_classifier
from nlptl.config import ClassificationConfig, JudgingConfig, TransferConfig
from nlptl.judging.baselines import BaselinesConfig, Gain, compare_baselines, describe_gain, doubt_gain
from tests.conftest import toy_rows
from tests.recipes.test_tasks import toy_data

MAJORITY, WORDS = "majority baseline", "TF-IDF, logistic regression"
RANDOM, FROZEN, TUNED = "random weights, fine-tuned", "frozen encoder", "fine-tuned"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 600 toy reviews, of which every ninth has the other label."""
    other = {"positive": "negative", "negative": "positive"}
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((text, other[label] if i % 9 == 0 else label) for i, (text, label) in enumerate(toy_rows(600)))
    return path


def strict_json(path: Path) -> dict:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_five_rows_and_no_gain_of_an_encoder_with_random_weights(
    reviews: Path, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "baselines.json"
    cli.main(["baselines", str(reviews), "--model", str(tiny_bert), "--num-epochs", "1", "--output", str(output)])
    out, err = capsys.readouterr()
    assert err == ""
    values = strict_json(output)
    assert [row["name"] for row in values["rows"]] == [MAJORITY, WORDS, RANDOM, FROZEN, TUNED]
    assert values["metric"] == "accuracy"
    for row in values["rows"]:
        score = row["scores"]["accuracy"]
        assert score["low"] <= score["value"] <= score["high"]
        assert score["n"] == 60
        (line,) = [line for line in out.splitlines() if line.startswith(f"{row['name']}  ")]
        for shown in (f"{score['value']:.4f}", f"{row['parameters']:,}", f"{row['trainable_parameters']:,}"):
            assert shown in line.split()
    majority, words, random, frozen, tuned = values["rows"]
    assert (majority["parameters"], majority["train_seconds"] < 1) == (0, True)
    assert words["parameters"] == words["trainable_parameters"] > 100
    assert random["parameters"] == random["trainable_parameters"] == tuned["trainable_parameters"]
    assert frozen["trainable_parameters"] == 66 < frozen["parameters"] <= tuned["parameters"]
    assert values["gain"]["over"] == WORDS
    assert values["gain"]["low"] <= 0
    assert values["warning"].startswith(("no gain: ", "negative transfer: "))
    assert values["warning"] in out
    assert f"{WORDS}: 95 % interval of the gain" in out
    # What is trained is told, and not what a training says of itself.
    assert f"training {TUNED}: 480 examples, 1 epoch\n" in out
    assert "kept the model of step" not in out


def test_a_gain_is_no_warning(reviews: Path, tiny_bert: Path):
    settings = {"rows": ("fine-tuned", "majority"), "num_epochs": 6, "batch_size": 8, "learning_rate": 3e-3}
    config = BaselinesConfig(dataset=str(reviews), model=str(tiny_bert), **settings)
    found = compare_baselines(config)
    assert [row.name for row in found.rows] == [MAJORITY, TUNED]
    gain = found.gain
    assert (gain.row, gain.over) == (TUNED, MAJORITY)
    assert gain.difference == pytest.approx(
        found.rows[1].scores["accuracy"].value - found.rows[0].scores["accuracy"].value
    )
    assert 0 < gain.low <= gain.difference <= gain.high
    assert gain.p < 0.05
    assert found.warning is None


def test_without_both_sides_nothing_is_compared(reviews: Path):
    found = compare_baselines(BaselinesConfig(dataset=str(reviews), rows=("words", "majority", "words")))
    assert [row.name for row in found.rows] == [MAJORITY, WORDS]
    assert (found.gain, found.warning) == (None, None)


@pytest.mark.parametrize("name", ["multilabel", "sentence_pair", "regression", "ordinal", "token_classification"])
def test_every_kind_of_task(name: str, tiny_bert: Path, tmp_path: Path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in toy_data(name)))
    kinds = {"multilabel": "multi_label", "sentence_pair": "single_label", "token_classification": "tokens"}
    config = BaselinesConfig(
        dataset=str(data),
        model=str(tiny_bert),
        task=kinds.get(name, name),
        pair_column="text2" if name == "sentence_pair" else None,
        rows=("majority", "words", "frozen"),
    )
    found = compare_baselines(config)
    majority, words, frozen = (row.scores[found.metric].value for row in found.rows)
    assert words > majority
    assert np.isfinite(frozen)
    assert found.gain.over == found.rows[1].name
    assert found.gain.low <= found.gain.difference <= found.gain.high
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("freeze", "train_only", "own"),
    [("encoder", None, f"{FROZEN} (this run)"), (1, None, "this run")],
)
def test_a_run_stands_in_its_own_table(freeze, train_only, own: str, reviews: Path, tiny_bert: Path, tmp_path: Path):
    config = ClassificationConfig(
        dataset=str(reviews),
        model=str(tiny_bert),
        max_examples=60,
        output_dir=tmp_path / "run",
        transfer=TransferConfig(freeze=freeze, train_only=train_only),
        train=TrainingConfig(num_epochs=2, learning_rate=2e-3),
        judging=JudgingConfig(with_baselines=True),
        near_duplicates=False,
    )
    scores = train_classifier(config)
    values = strict_json(tmp_path / "run" / "baselines.json")
    names = [row["name"] for row in values["rows"]]
    trained = [name for name in (FROZEN, TUNED) if not own.startswith(name)]
    assert names == [MAJORITY, WORDS, RANDOM, *trained, own]
    of_run = values["rows"][-1]
    assert of_run["scores"]["accuracy"]["value"] == scores["accuracy"].value
    assert of_run["train_seconds"] > 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert strict_json(tmp_path / "run" / "scores.json")["test"] == scores.to_json()


def test_what_is_trained_is_quiet_and_the_level_of_the_log_comes_back(reviews: Path, tiny_bert: Path, caplog):
    caplog.set_level(logging.INFO, logger="nlptl")
    config = BaselinesConfig(dataset=str(reviews), model=str(tiny_bert), rows=("frozen",), max_examples=30)
    compare_baselines(config)
    assert logging.getLogger("nlptl").level == logging.INFO
    assert f"training {FROZEN}: 30 examples, 10 epochs" in caplog.messages
    assert not [message for message in caplog.messages if message.startswith("kept the model")]


@pytest.mark.parametrize(
    ("low", "difference", "high", "metric", "said", "doubt"),
    [
        (0.01, 0.02, 0.03, "accuracy", "fine-tuned gains 0.0200 accuracy over words", None),
        (-0.01, 0.02, 0.03, "accuracy", "fine-tuned gains 0.0200 accuracy over words", "no gain: "),
        (0.0, 0.0, 0.0, "rmse", "fine-tuned gains 0.0000 rmse over words", "no gain: "),
        (-0.03, -0.02, -0.01, "log_loss", "fine-tuned loses 0.0200 log_loss to words", "negative transfer: "),
    ],
)
def test_what_is_said_of_a_gain(low, difference, high, metric, said, doubt):
    gain = Gain("fine-tuned", "words", difference, low, high, 0.00004)
    assert describe_gain(gain, metric).startswith(said)
    assert f"{low:+.4f} to {high:+.4f}, p < 0.001" in describe_gain(gain, metric)
    assert "p = 0.21" in describe_gain(replace(gain, p=0.2134), metric)
    assert doubt_gain(replace(gain, p=0.06)).startswith("no gain: ")
    if doubt is None:
        assert doubt_gain(gain) is None
    else:
        assert doubt_gain(gain).startswith(doubt)


def test_settings_that_cannot_be_obeyed(reviews: Path, tiny_bert: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Expected an output file in \.json, found 'b\.csv'"):
        compare_baselines(BaselinesConfig(dataset="no.csv", output=Path("b.csv")))
    config = BaselinesConfig(
        dataset=str(reviews), model=str(tiny_bert), rows=("frozen",), selection_metric="rmse", max_examples=30
    )
    with pytest.raises(ConfigError, match="The task single_label has no score 'rmse'"):
        compare_baselines(config)
    with pytest.raises(ConfigError, match="--rows is empty"):
        BaselinesConfig(dataset=str(reviews), rows=())
    with pytest.raises(ConfigError, match="seed must be a whole number of at least 0, found -1"):
        BaselinesConfig(dataset=str(reviews), seed=-1)
