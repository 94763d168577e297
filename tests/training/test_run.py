"""The folder of a run: claimed once, resumed with the same settings, moved aside, never deleted."""

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nlptl import ConfigError, Examples, ResourceError, SingleLabel, TrainingConfig, UntrustedFileError
from nlptl.config import HeadConfig, load_config
from nlptl.training import run as runs
from nlptl.training.run import Run, sha256_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a recipe."""

    model: str = "m"
    max_length: int | None = None
    output_dir: Path = Path("x")
    resume: bool = False
    overwrite: bool = False
    head: HeadConfig = HeadConfig()
    train: TrainingConfig = TrainingConfig()


def test_new_folder_gets_the_settings(tmp_path):
    config = Config(output_dir=tmp_path / "a/b", overwrite=True)
    run = Run.open(tmp_path / "a/b", config, overwrite=True)
    assert (run.path, run.resume) == (tmp_path / "a/b", False)
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.json"]
    assert load_config(Config, run.path / "config.json") == dataclasses.replace(config, overwrite=False)


def test_hidden_files_are_no_run(tmp_path):
    (tmp_path / ".config.json.tmp").touch()
    assert Run.open(tmp_path, Config()).resume is False


FACTS = {"seed": 0, "data_sha256": "a", "encoder_sha256": "b", "encoder": "here", "micro_batch_tokens": 512}


def test_folder_of_a_run_that_was_refused_before_training_can_be_used(tmp_path):
    Run.open(tmp_path / "run", Config()).write_json("splits.json", {})
    assert Run.open(tmp_path / "run", Config(model="other"), resume=True).resume is False
    assert load_config(Config, tmp_path / "run/config.json").model == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_folder_with_settings_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="already holds a run"):
        Run.open(tmp_path, Config())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_folder_with_a_run_is_refused(tmp_path):
    Run.open(tmp_path / "run", Config()).record_data(FACTS)
    before = (tmp_path / "run/config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"run already holds a run\. Pass --resume to continue it, --overwrite"):
        Run.open(tmp_path / "run", Config(model="other"))
    assert (tmp_path / "run/config.json").read_bytes() == before


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for settings in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigError, match=r"Expected a folder at .*file, found a file\. Pass another"):
            Run.open(tmp_path / "file", Config(), **settings)
    with pytest.raises(ResourceError, match=r"Cannot write into .*run: Not a directory\. Fix the"):
        Run.open(tmp_path / "file/run", Config())


def test_resume_and_overwrite_contradict_each_other(tmp_path):
    with pytest.raises(ConfigError, match="Expected --resume or --overwrite, found both"):
        Run.open(tmp_path / "run", Config(), resume=True, overwrite=True)
    assert not (tmp_path / "run").exists()


def test_overwrite_moves_the_run_aside(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for number in range(3):
        run = Run.open(tmp_path / "run", Config(model=str(number)), overwrite=True)
        (run.path / f"{number}.txt").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]
    assert (tmp_path / "run.1/0.txt").exists()
    assert (tmp_path / "run.2/1.txt").exists()
    assert f"moved the run in {tmp_path / 'run'} to {tmp_path / 'run'}.2" in caplog.messages


def test_resume_goes_on_with_the_same_settings(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = Config(head=HeadConfig(dropout=0.2))
    assert Run.open(tmp_path / "run", config, resume=True).resume is False
    assert caplog.messages == [f"nothing to resume in {tmp_path / 'run'}: starting a new run"]
    Run.open(tmp_path / "run", config, resume=True).record_data(FACTS)
    before = (tmp_path / "run/config.json").read_bytes()
    (tmp_path / "run").rename(tmp_path / "moved")
    elsewhere = dataclasses.replace(config, output_dir=tmp_path / "moved", resume=True)
    assert Run.open(tmp_path / "moved", elsewhere, resume=True).resume is True
    assert (tmp_path / "moved/config.json").read_bytes() == before


def test_resume_names_every_setting_that_differs(tmp_path):
    Run.open(tmp_path / "run", Config()).record_data(FACTS)
    changed = Config(max_length=7, head=HeadConfig(dropout=0.1), train=TrainingConfig(num_epochs=3))
    differences = "dropout was None and is 0.1, max_length was None and is 7, num_epochs was 10 and is 3."
    with pytest.raises(
        ConfigError, match=f"started with other settings: {differences} Resume it with the same settings"
    ):
        Run.open(tmp_path / "run", changed, resume=True)


def test_folder_that_is_no_run_is_not_resumed(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"has no config\.json, so it cannot be resumed\. Pass another --output-dir"):
        Run.open(tmp_path, Config(), resume=True)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "7"])
def test_damaged_settings_are_not_resumed(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UntrustedFileError, match=r"Expected a JSON object in .*config\.json, found something else"):
        Run.open(tmp_path, Config(), resume=True)


def test_manifest_says_where_and_on_what(tmp_path, monkeypatch):
    run = Run.open(tmp_path / "run", Config())
    run.record_data(FACTS)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert {key: manifest[key] for key in FACTS} == FACTS
    assert manifest.keys() - FACTS.keys() == {"identity", "command", "git_commit", "versions", "hardware"}
    assert {"python", "nlptl", "torch", "transformers"} <= manifest["versions"].keys()
    assert manifest["hardware"]["processes"] == 1
    monkeypatch.setattr(runs.shutil, "which", lambda _: None)
    run.record_data(FACTS)
    assert json.loads((tmp_path / "run/manifest.json").read_text())["git_commit"] is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"data_sha256": "x"}, "another data_sha256"),
        ({"encoder_sha256": "x", "seed": 1}, "seed was 0 and is 1, another encoder_sha256"),
    ],
)
def test_resume_on_other_data_is_refused(change, found, tmp_path):
    Run.open(tmp_path / "run", Config()).record_data(FACTS)
    before = (tmp_path / "run/manifest.json").read_bytes()
    run = Run.open(tmp_path / "run", Config(), resume=True)
    with pytest.raises(ConfigError, match=rf"or other settings: {found}\. Restore them, or start a new run"):
        run.record_data({**FACTS, **change})
    assert (tmp_path / "run/manifest.json").read_bytes() == before
    run.record_data({**FACTS, "encoder": "there", "micro_batch_tokens": 64})


def test_resume_of_a_run_that_had_not_come_to_its_data(tmp_path):
    Run.open(tmp_path / "run", Config())
    Run.open(tmp_path / "run", Config(), resume=True).record_data(FACTS)
    assert (tmp_path / "run/manifest.json").exists()


def test_json_is_written_whole_or_not_at_all(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    run.write_json("a.json", {"name": "\u00e9"})
    assert (tmp_path / "run/a.json").read_text(encoding="utf-8") == '{\n  "name": "\u00e9"\n}\n'
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        run.write_json("a.json", {"value": float("nan")})
    assert json.loads((tmp_path / "run/a.json").read_text(encoding="utf-8")) == {"name": "\u00e9"}
    (tmp_path / "run/b.json").mkdir()
    with pytest.raises(ResourceError, match=r"Cannot write into .*run: Is a directory"):
        run.write_json("b.json", {})


def test_model_that_cannot_be_written(tmp_path, build_model):
    run = Run.open(tmp_path / "run", Config())
    run.path = tmp_path / "run/config.json"
    with pytest.raises(ResourceError, match=r"Expected to write the model folder .*model, found: "):
        run.write_model(build_model())


def test_predictions_and_truncation(tmp_path):
    run = Run.open(tmp_path / "run", Config())
    examples = Examples(["x", "y"], ["no", "yes"], [2, 7])
    outputs, texts = np.array([[0.25, 0.75], [0.5, 0.5]]), examples.texts
    run.write_predictions(examples, SingleLabel(("no", "yes")).columns(outputs, texts, texts, name="predicted"))
    assert (tmp_path / "run/predictions.csv").read_text().splitlines() == [
        "row,label,predicted,probability,probability_no,probability_yes",
        "2,no,yes,0.75,0.25,0.75",
        "7,yes,no,0.5,0.5,0.5",
    ]
    for split in ("train", "test", "train"):
        run.record_truncation(split, {"cut_texts": 0.5})
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert report == {"truncation": {"train": {"cut_texts": 0.5}, "test": {"cut_texts": 0.5}}}


def test_hash_depends_on_names_and_borders():
    parts = [{"a": b"xy"}, {"b": b"xy"}, {"a": b"x", "b": b"y"}, {"a": b"", "b": b"xy"}, {"a": b"xyz"}]
    assert len({sha256_of(part) for part in parts}) == len(parts)
    assert sha256_of({"a": np.arange(3.0).data}) == sha256_of({"a": np.arange(3.0).tobytes()})


def test_folder_of_something_else_is_never_moved(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/precious.csv").touch()
    with pytest.raises(ConfigError, match=r"data holds files that are not of a run\. Pass another"):
        Run.open(tmp_path / "data", Config(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_resume_notices_other_test_data(splits, tmp_path):
    run = Run.open(tmp_path / "run", Config())
    run.record_splits(splits)
    run.record_data(FACTS)
    before = (tmp_path / "run/splits.json").read_bytes()
    changed = dataclasses.replace(splits, test=dataclasses.replace(splits.test, texts=["x"] * len(splits.test)))
    again = Run.open(tmp_path / "run", Config(), resume=True)
    again.record_splits(splits)
    with pytest.raises(ConfigError, match="was started on other texts or labels"):
        again.record_splits(changed)
    assert (tmp_path / "run/splits.json").read_bytes() == before


def test_hash_of_test_is_that_of_its_texts_and_labels_alone(splits, tmp_path):
    def hash_of(name, **changes):
        Run.open(tmp_path / name, Config()).record_splits(dataclasses.replace(splits, **changes))
        return json.loads((tmp_path / name / "data_report.json").read_text())["test_sha256"]

    test = splits.test
    same = hash_of("a")
    assert hash_of("b", train=splits.validation) == same
    assert hash_of("c", test=dataclasses.replace(test, texts=[*test.texts[:-1], "x"])) != same
    assert hash_of("d", test=dataclasses.replace(test, labels=test.labels[::-1])) != same
    assert hash_of("e", test=dataclasses.replace(test, pairs=test.texts)) != same
