"""Several seeds and folds in one command: a folder for each, and what the scores are on average."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score

from nlptl import ConfigError, DataError, train_classifier
from nlptl.config import (
    ClassificationConfig,
    HeadConfig,
    JudgingConfig,
    RepeatsConfig,
    TrainingConfig,
    TransferConfig,
    load_config,
    to_json,
)
from nlptl.judging.predictions import read_predictions
from nlptl.judging.repeats import repeat_training
from tests.processes import launch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tiny_bert: Path, toy_csv: Path, tmp_path: Path) -> Callable[..., ClassificationConfig]:
    """Return settings of a short training of the head on toy data."""

    def build(**changes: object) -> ClassificationConfig:
        repeats = {name: changes.pop(name) for name in ("seeds", "folds", "fold") if name in changes}
        config = ClassificationConfig(
            model=str(tiny_bert),
            dataset=str(toy_csv),
            near_duplicates=False,
            output_dir=tmp_path / "runs",
            transfer=TransferConfig(freeze="encoder"),
            train=TrainingConfig(num_epochs=2, learning_rate=0.05),
            judging=JudgingConfig(report=False),
            repeats=RepeatsConfig(**repeats),
        )
        return replace(config, **changes)

    return build


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("scores.json", "predictions.csv", "config.json")}


def test_seeds(settings, caplog):
    caplog.set_level(logging.INFO)
    config = settings(seeds=(3, 0, 7))
    scores = train_classifier(config)
    found = json.loads((config.output_dir / "seeds.json").read_text())
    assert [(run["seed"], run["folder"]) for run in found["runs"]] == [(3, "seed-3"), (0, "seed-0"), (7, "seed-7")]
    values = [run["scores"]["accuracy"]["value"] for run in found["runs"]]
    assert values == [
        json.loads((config.output_dir / f"seed-{seed}/scores.json").read_text())["test"]["accuracy"]["value"]
        for seed in (3, 0, 7)
    ]
    summary = found["summary"]["accuracy"]
    assert summary["mean"] == pytest.approx(np.mean(values))
    assert summary["sd"] == pytest.approx(np.std(values, ddof=1))
    assert summary["n"] == 3
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (summary["low"], summary["high"]) == pytest.approx((low, high))
    assert scores["accuracy"].value == pytest.approx(np.mean(values))
    assert (scores["accuracy"].low, scores["accuracy"].high, scores["accuracy"].n) == pytest.approx((low, high, 3))
    assert f"accuracy     {np.mean(values):.4f}  {np.std(values, ddof=1):.4f}" in caplog.text
    rows = [read_predictions(path, "single_label").rows for path in config.output_dir.glob("seed-*/predictions.csv")]
    assert rows[0] == rows[1] == rows[2]
    hashes = {path.read_text() for path in config.output_dir.glob("seed-*/splits.json")}
    assert len(hashes) == 1


def test_the_settings_of_a_run_repeat_it_alone(settings, tmp_path):
    for repeats, name in (({"seeds": (4, 5)}, "seed-5"), ({"folds": 3}, "fold-2")):
        config = settings(**repeats, output_dir=tmp_path / name)
        train_classifier(config)
        folder = config.output_dir / name
        alone = load_config(ClassificationConfig, folder / "config.json")
        assert (alone.resume, alone.overwrite, alone.output_dir) == (False, False, folder)
        train_classifier(replace(alone, output_dir=tmp_path / f"{name}-alone"))
        for file in ("scores.json", "predictions.csv", "model/model.safetensors"):
            assert (tmp_path / f"{name}-alone" / file).read_bytes() == (folder / file).read_bytes()


def test_folds(settings, caplog):
    caplog.set_level(logging.INFO)
    config = settings(folds=3)
    scores = train_classifier(config)
    found = json.loads((config.output_dir / "folds.json").read_text())
    assert [(run["fold"], run["folder"]) for run in found["runs"]] == [(i, f"fold-{i}") for i in (1, 2, 3)]
    values = [run["scores"]["accuracy"]["value"] for run in found["runs"]]
    assert found["summary"]["accuracy"]["mean"] == scores["accuracy"].value == pytest.approx(np.mean(values))
    assert (scores["accuracy"].low, scores["accuracy"].high, scores["accuracy"].n) == (min(values), max(values), 3)
    tables = [read_predictions(config.output_dir / f"fold-{i}/predictions.csv", "single_label") for i in (1, 2, 3)]
    assert len({row for table in tables for row in table.rows}) == sum(map(len, tables)) == 120
    labels = [label for table in tables for label in table.labels]
    predicted = [label for table in tables for label in table.columns["predicted"]]
    assert found["pooled"]["accuracy"]["value"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["pooled"]["accuracy"]["n"] == 120
    assert "all texts at once" in caplog.text


def test_resume_skips_what_is_finished(settings, caplog):
    config = settings(seeds=(0, 1))
    first = train_classifier(config)
    before = {seed: files_of(config.output_dir / f"seed-{seed}") for seed in (0, 1)}
    (config.output_dir / "seeds.json").unlink()
    (config.output_dir / "seed-1/scores.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in (config.output_dir / "seed-0").rglob("*") if path.is_file()}
    caplog.set_level(logging.INFO)
    again = train_classifier(replace(config, resume=True))
    assert f"{config.output_dir / 'seed-0'} is finished" in caplog.messages
    assert f"{config.output_dir / 'seed-1'} is finished" not in caplog.messages
    assert "resuming after step" in caplog.text
    assert str(again) == str(first)  # NaN among them
    assert {seed: files_of(config.output_dir / f"seed-{seed}") for seed in (0, 1)} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (config.output_dir / "seeds.json").exists()


def test_a_folder_with_other_runs_is_refused_or_moved_aside(settings):
    config = settings(seeds=(0, 1))
    train_classifier(config)
    with pytest.raises(ConfigError, match=r"runs already holds a run\. Pass --resume"):
        train_classifier(config)
    with pytest.raises(ConfigError, match=r"seeds was \[0, 1\] and is \[0, 2\]"):
        train_classifier(settings(seeds=(0, 2), resume=True))
    train_classifier(settings(seeds=(2, 3), overwrite=True))
    folders = {
        path.name: sorted(each.name for each in path.glob("seed-*")) for path in config.output_dir.parent.iterdir()
    }
    assert folders == {"runs": ["seed-2", "seed-3"], "runs.1": ["seed-0", "seed-1"]}


def test_dry_run_writes_nothing(settings, caplog):
    caplog.set_level(logging.INFO)
    config = settings(seeds=(0, 1), dry_run=True)
    assert train_classifier(config) == {}
    assert "dry run of one of 2 runs" in caplog.messages
    assert not config.output_dir.exists()


def test_a_run_that_has_collapsed_is_named(settings, caplog):
    learns = {"transfer": TransferConfig(), "train": TrainingConfig(num_epochs=4, batch_size=8, learning_rate=3e-3)}
    config, calls = settings(seeds=(0, 1, 2), **learns), []

    def train(each: ClassificationConfig) -> object:
        calls.append(each.seed)
        hopeless = TrainingConfig(num_epochs=1, learning_rate=1e-12)
        return train_classifier(replace(each, train=hopeless) if each.seed == 1 else each)

    repeat_training(config, train)
    assert calls == [0, 1, 2]
    found = json.loads((config.output_dir / "seeds.json").read_text())
    collapsed = [run["seed"] for run in found["runs"] if run["collapsed"]]
    assert collapsed == [1]
    kept = [run["scores"]["accuracy"]["value"] for run in found["runs"] if not run["collapsed"]]
    assert found["without_collapsed"]["accuracy"]["mean"] == pytest.approx(np.mean(kept))
    assert found["without_collapsed"]["accuracy"]["n"] == 2
    assert found["summary"]["accuracy"]["n"] == 3
    assert "1 of 3 runs predict the same for all texts: seed-1 (accuracy 0.5000); accuracy without: mean" in caplog.text


@pytest.mark.parametrize(
    ("repeats", "message"),
    [
        ({"seeds": (0, 1), "folds": 2}, "Expected --seeds or --folds, found both. Pass one of the two."),
        ({"seeds": (0, 0)}, "Expected two or more different seeds, found 0, 0."),
        ({"seeds": (3,)}, "Expected two or more different seeds, found 3. Pass for instance --seeds 0 1 2 3 4, or one"),
        ({"folds": 1}, "folds must be a whole number of at least 2 or None, found 1."),
        ({"folds": 3, "fold": 4}, "Expected a fold from 1 to the number of folds, found fold 4 of --folds 3."),
        ({"fold": 1}, "found fold 1 of --folds None. Pass both, or leave out fold."),
    ],
)
def test_settings_that_contradict_each_other_are_refused(repeats, message):
    with pytest.raises(ConfigError) as error:
        RepeatsConfig(**repeats)
    assert message in str(error.value)


def test_a_seed_beside_several_is_refused(settings):
    config = settings(seeds=(0, 1), seed=5)
    with pytest.raises(ConfigError, match="Expected --seed or --seeds, found both: 5 and 0, 1. Pass one of them"):
        train_classifier(config)
    assert not config.output_dir.exists()


def test_runs_that_were_refused_before_training_leave_a_folder_that_can_be_used(settings):
    with pytest.raises(DataError, match="Expected text column 'wrong'"):
        train_classifier(settings(seeds=(0, 1), text_column="wrong"))
    config = settings(seeds=(0, 1))
    scores = train_classifier(config)
    assert scores["accuracy"].n == 2
    assert np.isnan(scores["accuracy"].low)
    assert json.loads((config.output_dir / "seeds.json").read_text())["summary"]["accuracy"]["low"] is None
    assert not config.output_dir.with_name("runs.1").exists()


def test_more_folds_than_texts_are_refused(settings):
    with pytest.raises(DataError, match="Expected 121 or more texts in .* for 121 folds, found 120"):
        train_classifier(settings(folds=121))


@pytest.mark.multiprocess
def test_several_processes_do_as_one(settings, tmp_path):
    config = settings(folds=2, transfer=TransferConfig(), head=HeadConfig(dropout=0.0))
    train_classifier(config)
    (tmp_path / "config.json").write_text(json.dumps(to_json(replace(config, output_dir=tmp_path / "two"))))
    codes, said = launch([ROOT / "recipes/text_classification.py", "--config", tmp_path / "config.json"])
    assert codes == [0, 0], said
    assert "".join(said).count(" of 2)\n") == 2
    one, two = (json.loads((folder / "folds.json").read_text()) for folder in (config.output_dir, tmp_path / "two"))
    assert one["summary"]["accuracy"] == pytest.approx(two["summary"]["accuracy"])
    assert one["pooled"]["log_loss"] == pytest.approx(two["pooled"]["log_loss"], rel=1e-4)
