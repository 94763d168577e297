"""Every family by every fast path on a CPU: logits, gradients and losses are those of stock transformers."""

import functools
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from nlptl import Classifier, Examples, Trainer, TrainingConfig
from nlptl.data.batches import global_batches
from nlptl.model import packing, quick, text_groups
from nlptl.model.encoder import FAMILIES
from nlptl.model.quick import quick_layers
from tests.conftest import build_tokenizer, toy_rows

PADDED = ("deberta", "mpnet")
"""Families whose layers see padding by every path."""

TOLERANCES = {"packed": 1e-12, "dropout": 1e-6, "checkpoints": 1e-12, "onednn": 1e-5}
"""Of gradients by the path: in float64, but for oneDNN, which has float32 alone."""

NOTHING = 1e-9
"""A dropout that drops nothing here, for which attention is computed as with any other."""

LABELS = ["negative", "positive"]
TEXTS, NAMES = zip(*toy_rows(78), strict=True)
LONGEST_FIRST = sorted(range(30), key=lambda i: -len(TEXTS[i].split()))
BATCH_SIZE, NUM_STEPS = 8, 50  # an epoch is ten steps, the last of them with six texts
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01


def by_family(*paths: str) -> pytest.MarkDecorator:
    """Parametrize a test by all families, without padding, and by the other paths of a few families."""
    few = [(family, path) for path in paths for family in ("bert", "deberta-v2", "modernbert")]
    cases = [*((family, "packed") for family in FAMILIES), *few]
    return pytest.mark.parametrize(("family", "path"), cases, indirect=["path"])


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the path that is tested; linear layers take oneDNN on that path alone, whatever this CPU is."""
    path: str = request.param
    if path == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    monkeypatch.setattr(quick, "prefers_onednn", lambda: path == "onednn")
    monkeypatch.setattr(text_groups, "ATTENTION_TOKENS", 96)  # several groups of few texts, with padding and without
    return path


def check_path(model: Classifier, family: str, path: str) -> None:
    """Check that a pass of `model` that begins now takes the path."""
    assert model.leaves_padding_out == (path != "checkpoints" and family not in PADDED)
    assert model.checkpoints_gradients == (path == "checkpoints")
    linear = [module for module in model.modules() if type(module) is nn.Linear]
    assert {"forward" in module.__dict__ for module in linear} == {path == "onednn"}


def load_stock(folder: Path) -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(folder)


def stock_batch(rows: Sequence[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return what a user of transformers would pass for some of the texts, padded to the longest, and label ids."""
    batch = build_tokenizer()([TEXTS[i] for i in rows], padding=True, return_tensors="pt")
    names = ("input_ids", "attention_mask")
    return {name: batch[name] for name in names}, torch.tensor([LABELS.index(NAMES[i]) for i in rows])


def test_every_family_is_packed_or_padded():
    assert sorted([*packing.FAMILIES, packing.DEBERTA, *PADDED]) == sorted(FAMILIES)


@by_family("onednn")
def test_logits(family: str, path: str, family_folder: Callable[[str], Path], tmp_path: Path):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS)
    model.network.base_model.register_forward_pre_hook(lambda *_: check_path(model, family, path))
    model.save(tmp_path / "model")
    batch, _ = stock_batch(range(len(TEXTS)))
    with torch.no_grad():
        expected = load_stock(tmp_path / "model").eval()(**batch).logits
    torch.testing.assert_close(model.predict_logits(TEXTS), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01


@by_family("dropout", "checkpoints", "onednn")
def test_gradients(family: str, path: str, family_folder: Callable[[str], Path], tmp_path: Path):
    dropout = NOTHING if path == "dropout" else 0.0
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, dropout=dropout)
    model.save(tmp_path / "model")
    batch, labels = stock_batch(LONGEST_FIRST[:16])
    stock = load_stock(tmp_path / "model").double().eval()
    F.cross_entropy(stock(**batch).logits, labels).backward()

    model.to(torch.float32 if path == "onednn" else torch.float64).train()
    model.checkpoint_gradients(path == "checkpoints")
    torch.manual_seed(0)
    with quick_layers(model) if path == "onednn" else nullcontext():
        check_path(model, family, path)
        F.cross_entropy(model(**batch), labels).backward()
    expected = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    found = {name: p.grad.double() for name, p in model.network.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=TOLERANCES[path], msg=name)
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01


@pytest.fixture(scope="module")
def stock_training(
    family_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, list[float]]]:
    """Return a function that gives the folder of a new model, and the losses of a plain loop that starts from it."""

    @functools.cache
    def train(family: str) -> tuple[Path, list[float]]:
        folder = tmp_path_factory.mktemp("start") / family
        Classifier.from_pretrained(family_folder(family), labels=LABELS, dropout=0.0).save(folder)
        stock = load_stock(folder).train()
        matrices, vectors = ([p for p in stock.parameters() if (p.ndim > 1) is many] for many in (True, False))
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
        optimizer, losses = torch.optim.AdamW(groups, lr=LEARNING_RATE), []
        for _, rows in global_batches(len(TEXTS), BATCH_SIZE, seed=0, first_step=0, num_steps=NUM_STEPS):
            batch, labels = stock_batch(rows)
            loss = stock(**batch, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return folder, losses

    return train


@pytest.mark.parametrize(
    ("family", "path"),
    [
        *((family, "packed") for family in ("bert", "deberta-v2", "modernbert")),
        ("bert", "checkpoints"),
        ("bert", "onednn"),
    ],
    indirect=["path"],
)
def test_losses(family: str, path: str, stock_training: Callable[[str], tuple[Path, list[float]]], tmp_path: Path):
    folder, expected = stock_training(family)
    model = Classifier.from_pretrained(folder)
    model.network.base_model.register_forward_pre_hook(lambda *_: check_path(model, family, path))
    config = TrainingConfig(
        num_epochs=5,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        schedule="constant",
        warmup_ratio=0,
        max_grad_norm=0,
        gradient_checkpointing=path == "checkpoints",
        logging_steps=1,
        save_steps=NUM_STEPS,
    )
    Trainer(model, config, output_dir=tmp_path / "run", seed=0).fit(Examples.from_lists(TEXTS, NAMES))
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "gradient_norm" in record]
    assert len(losses) == NUM_STEPS
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
