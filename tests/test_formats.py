"""What nlptl 0.1.0 wrote, in tests/formats/0.1.0: it loads and predicts the same, resumes, or is refused by name."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nlptl import Classifier, TrainingConfig, cli
from nlptl.config import ClassificationConfig, load_config
from nlptl.errors import ConfigError
from nlptl.formats import CARD_FORMAT, CHECKPOINT_FORMAT, CONFIG_FORMAT, RENAMED, current_settings, translated

FOLDER = Path(__file__).parent / "formats" / "0.1.0"
MODELS = (
    "native",
    "dense",
    "logistic",
    "lora",
    "chunks",
    "decisions",
    "ordinal",
    "multi_label",
    "regression",
    "tokens",
)


def check_predictions(model: Classifier, file: Path, *, tolerance: float) -> None:
    """Compare what a model makes of some texts with what nlptl 0.1.0 has written of it."""
    expected = json.loads(file.read_text())
    np.testing.assert_allclose(model.predict_outputs(expected["texts"]), expected["outputs"], rtol=1e-6, atol=tolerance)
    answers = json.loads(json.dumps(model.predict(expected["texts"]), default=dataclasses.asdict))
    for answer, before in zip(answers, expected["answers"], strict=True):
        answer, before = flat(answer), flat(before)
        assert answer.keys() == before.keys()
        for name, value in before.items():
            is_number = isinstance(value, float)
            assert answer[name] == (pytest.approx(value, rel=1e-6, abs=tolerance) if is_number else value)


def flat(value: object, name: str = "") -> dict[str, object]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {place: leaf for key, each in items for place, leaf in flat(each, f"{name}/{key}").items()}
    return {name: value}


def test_every_old_model_is_tested():
    """What is not among MODELS is of a feature that was deleted."""
    assert {path.parent.name for path in FOLDER.glob("*/nlptl.json")} == {*MODELS, "knn", "aps"}


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_predicts_the_same_and_is_saved_in_the_new_format(name: str, tmp_path: Path):
    model = Classifier.from_pretrained(FOLDER / name)
    check_predictions(model, FOLDER / name / "predictions.json", tolerance=1e-6)
    model.save(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "nlptl.json").read_text())["format"] == CARD_FORMAT == 2
    check_predictions(Classifier.from_pretrained(tmp_path / "new"), FOLDER / name / "predictions.json", tolerance=1e-6)


def test_a_new_head_goes_on_the_encoder_of_an_old_model():
    model = Classifier.from_pretrained(FOLDER / "dense", labels=["a", "b", "c"])
    assert model.predict_outputs(["good movie"]).shape == (1, 3)


@pytest.mark.parametrize(("name", "found"), [("aps", "score='aps'"), ("knn", "head='knn'")])
def test_a_model_with_a_deleted_feature_is_refused_by_name(name: str, found: str):
    with pytest.raises(ConfigError, match=f"json has {found}, which nlptl 0.2.0 removed. Use nlptl 0.1.0, which"):
        Classifier.from_pretrained(FOLDER / name)


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a folder in which nlptl 0.1.0 was killed after step 4 of 16, as the current folder."""
    shutil.copytree(FOLDER / "killed", tmp_path / "killed")
    monkeypatch.chdir(tmp_path / "killed")
    return tmp_path / "killed"


def train(*flags: object) -> None:
    cli.main(["run", "sentiment", *map(str, flags)])


def change(path: Path, edit: Callable[[dict[str, object]], object]) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def test_an_old_run_is_resumed_to_what_it_would_have_come_to(killed: Path, capsys: pytest.CaptureFixture[str]):
    # 0.1.0 updated the rows of word embeddings that occur; its checkpoints hold the whole table.
    assert load_config_as_json(killed / "run/config.json")["train"]["sparse_embeddings"] is True
    train("--resume", "--output-dir", "run")
    assert "resuming after step 4" in capsys.readouterr().out
    check_predictions(Classifier.from_pretrained("run/model"), killed / "predictions.json", tolerance=1e-5)
    assert load_config_as_json(killed / "run/config.json")["format"] == CONFIG_FORMAT == 2
    # New checkpoints stand beside old ones, and are of the same run.
    train("--resume", "--output-dir", "run")
    assert "resuming after step 16" in capsys.readouterr().out


def load_config_as_json(path: Path) -> dict[str, dict[str, object]]:
    return json.loads(path.read_text())


def test_the_settings_of_an_old_run_repeat_it(killed: Path):
    train("--config", "run/config.json", "--output-dir", "again")
    check_predictions(Classifier.from_pretrained("again/model"), killed / "predictions.json", tolerance=1e-5)


def test_settings_are_still_compared_when_an_old_run_is_resumed(killed: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        train("--resume", "--output-dir", "run", "--batch-size", 8)
    assert "other settings: batch_size was 24 and is 8." in capsys.readouterr().err
    change(killed / "run/manifest.json", lambda values: values.update(encoder_sha256="0"))
    with pytest.raises(SystemExit, match="2"):
        train("--resume", "--output-dir", "run")
    assert "another encoder_sha256" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--config", "config.json"], ["--resume", "--output-dir", "."]])
def test_deleted_settings_in_use_are_refused_by_name(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(FOLDER / "regularized", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train(*flags)
    message = "config.json has mixout=0.1, l2_sp=0.01, which nlptl 0.2.0 removed. Use nlptl 0.1.0, which still has it"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (
            {
                "mixout": 0.0,
                "fgm": 0,
                "wise_ft": None,
                "ema_decay": None,
                "l2_sp": 0.0,
                "sparse_embeddings": False,
                "conformal_score": "lac",
            },
            {},
        ),
        ({"format": 1, "head": {"head": "logistic"}}, {"head": {"head": "logistic"}}),
        ({"texts_shown": "none", "unknown": [1]}, {"texts_shown": "none", "unknown": [1]}),
    ],
)
def test_deleted_settings_without_effect_are_dropped(settings: dict[str, object], kept: dict[str, object]):
    assert current_settings(settings, Path("config.json")) == translated(settings) == kept


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            {"train": {"fgm": 0.5, "ema_decay": 0.9}, "judging": {"texts_shown": "masked"}},
            "fgm=0.5, ema_decay=0.9, texts_shown='masked'",
        ),
        ({"train": {"conformal_score": "aps"}}, "conformal_score='aps'"),
    ],
)
def test_all_deleted_settings_in_use_are_named(settings: dict[str, object], found: str, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=rf"config\.json has {found}, which nlptl 0\.2\.0 removed"):
        load_config(ClassificationConfig, path)


def test_renamed_settings_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(RENAMED, "epochs", "num_epochs")
    (tmp_path / "config.json").write_text('{"epochs": 3}')
    assert load_config(TrainingConfig, tmp_path / "config.json") == TrainingConfig(num_epochs=3)


def test_files_of_a_newer_version_are_refused(killed: Path, capsys: pytest.CaptureFixture[str]):
    newer = r"has format 9, and this version reads formats up to \d: it was written by a newer nlptl\. Update nlptl"
    shutil.copytree(FOLDER / "native", "model")
    change(Path("model/nlptl.json"), lambda values: values.update(format=9))
    with pytest.raises(ConfigError, match=rf"nlptl\.json {newer}"):
        Classifier.from_pretrained("model")

    change(
        Path("run/checkpoints/step-000004/manifest.json"), lambda values: values.update(format=CHECKPOINT_FORMAT + 1)
    )
    with pytest.raises(SystemExit, match="2"):
        train("--resume", "--output-dir", "run")
    assert "step-000004 has format 5, and this version reads formats up to 4: it was" in capsys.readouterr().err

    change(killed / "run/config.json", lambda values: values.update(format=9))
    with pytest.raises(ConfigError, match=rf"config\.json {newer}"):
        load_config(ClassificationConfig, killed / "run/config.json")


@pytest.mark.parametrize("number", ["2", 0, -1, True, None, 1.5])
def test_a_format_is_a_number(number: object, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"format": number}))
    with pytest.raises(ConfigError, match=f"has format {number!r}, which is not a number from 1 up"):
        load_config(TrainingConfig, tmp_path / "config.json")
