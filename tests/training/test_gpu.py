"""What only an accelerator can show: precision, and equal bytes on it."""

import json

import pytest
import torch

from nlptl import Run, Trainer, TrainingConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def train(build_model, splits, folder, **settings):
    config = TrainingConfig(**{"num_epochs": 6, "batch_size": 8, "learning_rate": 3e-3, **settings})
    trainer = Trainer(build_model(), config, output_dir=Run.open(folder, config), seed=0)
    trainer.fit(splits["train"], validation=splits["validation"])
    return trainer, trainer.evaluate(splits["test"])


def test_learns_on_the_device_with_the_precision_it_has(build_model, splits, tmp_path):
    precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    trainer, scores = train(build_model, splits, tmp_path / "run", mixed_precision=precision)
    assert trainer.model.device.type == "cuda"
    assert scores["accuracy"].value >= 0.9
    weights = dict(trainer.model.network.named_parameters())
    assert {parameter.dtype for parameter in weights.values()} == {torch.float32}
    assert "cuda" in json.loads((tmp_path / "run/manifest.json").read_text())["hardware"]["device"]
    assert trainer.model.predict(["a great film ."])[0].label == "positive"


def test_device_and_cpu_agree_without_dropout(build_model, splits, tmp_path):
    model = build_model(dropout=0.0)
    texts = splits["test"].texts
    on_cpu = model.predict_probabilities(texts)
    on_device = model.to("cuda").predict_probabilities(texts)
    torch.testing.assert_close(on_device, on_cpu, atol=1e-4, rtol=0)
