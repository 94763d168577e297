"""What only an accelerator can show: precision, and equal bytes on it."""

import json

import pytest
import torch

from nlptl import Classifier, Examples, Run, Trainer, TrainingConfig

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


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("freeze", ["nothing", 4])
def test_memory_is_estimated_within_15_percent(freeze, precision, splits):
    model = Classifier.from_pretrained("sample:minilm", labels=splits.labels, freeze=freeze)
    texts = ["a good film " * (30 + i % 40) for i in range(256)]
    examples = Examples.from_lists(texts, ["negative", "positive"] * 128)
    trainer = Trainer(model, TrainingConfig(num_epochs=2, batch_size=128, mixed_precision=precision))
    estimate = trainer.estimate(examples)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer.fit(examples)
    assert sum(estimate.memory.values()) == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
