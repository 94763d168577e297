"""Models in ONNX Runtime: logits are those of torch, costs are said, and what cannot be is refused."""

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlptl import Classifier, Examples, Trainer, TrainingConfig, cli
from nlptl.config import ReadingConfig
from nlptl.errors import ConfigError, ResourceError
from nlptl.model import onnx_runtime
from nlptl.model.onnx_runtime import FILES
from nlptl.serving.export import ExportConfig, count_different, export
from nlptl.tasks.multi_label import MultiLabel
from nlptl.tasks.regression import Regression
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.tokens import TokenLabels
from tests.conftest import options

TEXTS = ["good", "a very dull film", *(" ".join(["good", "story"] * n) for n in (20, 1, 7)), "the end ."]
LABELS = ["negative", "positive", "mixed"]
KINDS: dict[str, dict[str, Any]] = {
    "native": {"labels": LABELS},
    "layers": {"labels": LABELS, "pooling": "mean", "layers": "mix", "hidden": 8},
    "attention": {"labels": LABELS, "pooling": "attention"},
    "sigmoid": {"labels": LABELS[:2], "binary_loss": "sigmoid"},
    "pairs": {"labels": LABELS, "pairs": True},
    "tags": {"task": TokenLabels(("O", "B-x", "I-x"))},
    "scores": {"task": Regression(("stars",))},
}


@pytest.fixture(autouse=True)
def _their_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what onnx and its helpers import is deprecated somewhere
        yield


@pytest.fixture
def folder(model_dir: Path, tmp_path: Path) -> Path:
    """Return a model folder that may be written to."""
    return shutil.copytree(model_dir, tmp_path / "model")


def compare(model: Classifier, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of torch and of ONNX Runtime."""
    pairs = TEXTS[::-1] * model.reads_pairs
    expected = model.predict_logits(TEXTS, pairs)
    model.export_onnx(folder / FILES["onnx"])
    model.use_engine("onnx", folder)
    ran = []
    assert model.onnx is not None
    run = model.onnx.session.run
    model.onnx.session.run = lambda *args: ran.append(args) or run(*args)
    found = model.predict_logits(TEXTS, pairs)
    assert ran
    return expected, found


@pytest.mark.parametrize(
    "kind", [kind if kind == "tags" else pytest.param(kind, marks=pytest.mark.nightly) for kind in KINDS]
)
def test_logits_are_those_of_torch(kind: str, tiny_bert: Path, tmp_path: Path):
    model = Classifier.from_pretrained(tiny_bert, max_length=40, **options(**KINDS[kind]))
    expected, found = compare(model, tmp_path)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("family", ["roberta", "distilbert", "deberta-v2", "mpnet", "modernbert", "albert"])
def test_families(family: str, family_folder: Callable[[str], Path], tmp_path: Path):
    expected, found = compare(Classifier.from_pretrained(family_folder(family), labels=LABELS, max_length=40), tmp_path)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_command_says_what_it_costs_and_predict_and_evaluate_use_it(
    folder: Path, toy_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    handlers = list(logging.getLogger().handlers)
    cli.main(["export", str(folder), str(toy_csv)])
    lines = capsys.readouterr().out
    assert "\n0 of 120 answers differ" in lines
    assert lines.count("accuracy") == 2
    cost = export(ExportConfig(model_dir=str(folder), dataset=str(toy_csv), int8=True))
    assert 1e-6 < cost.largest_difference < 0.5
    assert (folder / FILES["onnx-int8"]).stat().st_size < (folder / FILES["onnx"]).stat().st_size
    assert logging.getLogger().handlers == handlers
    outputs = {}
    for engine in ("torch", "onnx", "onnx-int8"):
        path = tmp_path / f"{engine}.jsonl"
        cli.main(["predict", str(folder), "--input", str(toy_csv), "--output", str(path), "--engine", engine])
        model = Classifier.from_pretrained(folder)
        model.use_engine(engine, folder)
        outputs[engine] = model.predict_outputs(TEXTS)
        cli.main(["evaluate", str(folder), str(toy_csv), "--engine", engine, "--output", str(tmp_path / "scores.json")])
    np.testing.assert_allclose(outputs["onnx"], outputs["torch"], atol=1e-5)
    assert 1e-6 < np.abs(outputs["onnx-int8"] - outputs["torch"]).max() < 0.1


@pytest.mark.nightly
def test_a_training_goes_on_in_torch(folder: Path):
    model = Classifier.from_pretrained(folder)
    model.export_onnx(folder / FILES["onnx"])
    model.use_engine("onnx", folder)
    before = model.predict_logits(TEXTS)
    labels = ["negative", "positive"] * 3
    Trainer(model, TrainingConfig(num_epochs=3, learning_rate=1e-2, batch_size=2)).fit(
        Examples.from_lists(TEXTS, labels)
    )
    after = model.predict_logits(TEXTS)
    assert (after - before).abs().max() > 1e-3


def test_what_cannot_be_exported(tiny_bert: Path, tmp_path: Path):
    model = Classifier.from_pretrained(
        tiny_bert, labels=LABELS, pooling="mean", reading=ReadingConfig(long_text="chunks")
    )
    with pytest.raises(ConfigError, match=r"tensors alone for ONNX, found texts in chunks\. Predict with torch"):
        model.export_onnx(tmp_path / "model.onnx")


def test_a_path_that_cannot_be_written(tiny_bert: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"Expected to write .*file/model.onnx, found: .*Pass a folder"):
        Classifier.from_pretrained(tiny_bert, labels=LABELS).export_onnx(tmp_path / "file" / "model.onnx")


def test_an_engine_that_nothing_was_exported_for(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        cli.main(["predict", str(folder), "--text", "good", "--engine", "onnx"])
    assert exit.value.code == 2
    assert "model.onnx, which nlptl export writes, found none. Run: nlptl export" in capsys.readouterr().err


def test_packages_that_are_missing(folder: Path, toy_csv: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_runtime, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"extra onnx, found no onnxscript in this environment.*nlptl\[onnx\]"):
        export(ExportConfig(model_dir=str(folder), dataset=str(toy_csv)))


def test_a_folder_that_is_none(toy_csv: Path):
    with pytest.raises(ConfigError, match=r"Expected a model folder, found none at somewhere/else"):
        export(ExportConfig(model_dir="somewhere/else", dataset=str(toy_csv)))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (SingleLabel(("a", "b")), 2),
        (MultiLabel(("a", "b")), 2),
        (TokenLabels(("O", "B-x")), 2),
        (Regression(("x", "y")), 0),
    ],
)
def test_answers_that_differ_are_counted_in_every_task(task, expected):
    texts = ["good", "dull", "the"]
    logits = torch.tensor([[2.0, -1.0], [-1.0, 2.0], [-3.0, 1.0]])
    assert count_different(task, logits, logits, texts=texts) == 0
    assert count_different(task, logits, logits * torch.tensor([[-1.0], [1.0], [-1.0]]), texts=texts) == expected


def test_a_network_that_does_not_fit_into_one_file(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "MAX_BYTES", 1000)
    model = Classifier.from_pretrained(model_dir)
    with pytest.raises(ConfigError, match=r"at most 0 MB for an ONNX file, found \d MB. Predict with torch"):
        model.export_onnx(tmp_path / "onnx/model.onnx")
    assert not (tmp_path / "onnx").exists()
