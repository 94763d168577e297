"""What only an accelerator can show: precision, memory and what is done where it ends, several devices."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from nlptl import Classifier, Examples, Run, Trainer, TrainingConfig, load_splits
from nlptl.model import packing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

every_family = pytest.mark.parametrize("family", [*packing.FAMILIES, packing.DEBERTA])

ROOT = Path(__file__).parents[2]
LABELS = ("negative", "positive")


@pytest.fixture(autouse=True)
def _precision_of_its_own():
    """Let each test have one: Accelerate keeps to the first of a process."""
    AcceleratorState._reset_state()


@pytest.fixture(scope="module")
def splits(toy_csv):
    return load_splits(toy_csv, seed=0)


@pytest.fixture(scope="module")
def reviews():
    """Return 256 texts of 92 to 128 tokens."""
    texts = ["a good film " * (30 + i % 40) for i in range(256)]
    return Examples.from_lists(texts, list(LABELS) * 128)


def test_learns_on_the_device_with_the_precision_it_has(tiny_bert, splits, tmp_path):
    precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    config = TrainingConfig(num_epochs=6, batch_size=8, learning_rate=3e-3, mixed_precision=precision)
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    trainer = Trainer(model, config, output_dir=Run.open(tmp_path / "run", config))
    trainer.fit(splits["train"], validation=splits["validation"])
    assert trainer.evaluate(splits["test"])["accuracy"].value >= 0.9
    assert model.device.type == "cuda"
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.float32}
    assert "cuda" in json.loads((tmp_path / "run/manifest.json").read_text())["hardware"]["device"]
    assert model.predict(["a great film ."])[0].label == "positive"


def test_device_and_cpu_agree_without_dropout(tiny_bert, splits):
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS, dropout=0.0)
    texts = splits["test"].texts
    on_cpu = model.predict_probabilities(texts)
    torch.testing.assert_close(model.to("cuda").predict_probabilities(texts), on_cpu, atol=1e-4, rtol=0)


def gradient_of(model, *, padding_free, bf16):
    """Return the gradient on texts of 12 tokens to one, all parts in one vector, and the logits."""
    ids = torch.randint(5, 40, (7, 12), generator=torch.Generator().manual_seed(0)).to("cuda")
    mask = (torch.arange(12) < torch.tensor([12, 5, 11, 1, 7, 7, 3])[:, None]).long().to("cuda")
    model.train()
    model.zero_grad()
    model.leave_padding_out(padding_free)
    assert model.leaves_padding_out is padding_free
    with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=ids * mask, attention_mask=mask).float()
    torch.nn.functional.cross_entropy(logits, ids[:, 0] % 2).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), logits.detach()


@pytest.mark.parametrize("pooling", ["native", "mean"])
@every_family
def test_in_float32_the_gradient_without_padding_is_that_of_the_padded_pass(family, pooling, family_folder):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling, dropout=0.0).to("cuda")
    expected = gradient_of(model, padding_free=False, bf16=False)
    found = gradient_of(model, padding_free=True, bf16=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["native", "mean"])
@every_family
def test_in_bf16_the_gradient_without_padding_is_as_near_to_float32(family, pooling, family_folder, monkeypatch):
    model = Classifier.from_pretrained(family_folder(family), labels=LABELS, pooling=pooling, dropout=0.0).to("cuda")
    exact = gradient_of(model, padding_free=False, bf16=False)
    padded = gradient_of(model, padding_free=False, bf16=True)
    flash, calls = torch.ops.aten._flash_attention_forward, []

    def counted(*args, **settings):
        calls.append(args)
        return flash(*args, **settings)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", counted)
    found = gradient_of(model, padding_free=True, bf16=True)
    assert bool(calls) is (family in packing.FAMILIES)
    for of_found, of_padded, of_exact in zip(found, padded, exact, strict=True):
        allowed = max(2 * float((of_padded - of_exact).norm()), 0.02 * float(of_exact.norm()))
        assert float((of_found - of_exact).norm()) <= allowed


def test_learns_without_padding(tiny_bert, splits):
    precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    model = Classifier.from_pretrained(tiny_bert, labels=LABELS)
    settings = {"num_epochs": 6, "batch_size": 8, "learning_rate": 3e-3}
    trainer = Trainer(model, TrainingConfig(mixed_precision=precision, padding_free=True, **settings))
    trainer.fit(splits["train"], validation=splits["validation"])
    assert model.leaves_padding_out
    assert trainer.evaluate(splits["test"])["accuracy"].value >= 0.9
    on_device = model.predict_probabilities(splits["test"].texts)
    on_cpu = model.to("cpu").predict_probabilities(splits["test"].texts)
    torch.testing.assert_close(on_device, on_cpu, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("freeze", ["nothing", 4])
def test_memory_is_estimated_within_half(freeze, precision, reviews):
    model = Classifier.from_pretrained("sample:minilm", labels=LABELS, freeze=freeze)
    trainer = Trainer(model, TrainingConfig(num_epochs=2, batch_size=128, mixed_precision=precision))
    estimate = trainer.estimate(reviews)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer.fit(reviews)
    assert sum(estimate.memory.values()) == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.5)


def test_memory_that_runs_out_makes_micro_batches_smaller(reviews, caplog):
    def train(**settings):
        model = Classifier.from_pretrained("sample:minilm", labels=LABELS, dropout=0.0)
        config = TrainingConfig(num_epochs=1, batch_size=256, optimizer="sgd", max_grad_norm=0, **settings)
        Trainer(model, config).fit(reviews)
        return {name: parameter.detach().cpu() for name, parameter in model.network.named_parameters()}

    small = train(micro_batch_tokens=2048)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    # A card of 1.5 GB, which 256 texts of 128 tokens do not fit into.
    torch.cuda.set_per_process_memory_fraction(1.5e9 / total)
    try:
        found = train(micro_batch_tokens=256 * 128)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory" in caplog.text
    for name, weight in small.items():
        torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=0, msg=name)


@pytest.mark.multiprocess
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_all_devices_there_are_learn_what_one_does(precision, tiny_bert, toy_csv, tmp_path):
    settings = ["--freeze", "nothing", "--dropout", 0, "--num-epochs", 4, "--batch-size", 24, "--learning-rate", 3e-3]
    data = ["--model", tiny_bert, "--dataset", toy_csv, "--mixed-precision", precision]
    recipe = [ROOT / "recipes/sentiment.py", *data, *settings]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes/launch/one_machine.yaml"]
    launcher += ["--num_processes", torch.cuda.device_count()]
    for words, folder in (([], "alone"), (launcher, "all")):
        command = [sys.executable, *words, *recipe, "--output-dir", tmp_path / folder]
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT, timeout=300)
    alone, together = (load_file(tmp_path / folder / "model/model.safetensors") for folder in ("alone", "all"))
    for name, tensor in alone.items():
        np.testing.assert_allclose(together[name], tensor, atol=1e-4 if precision == "no" else 2e-2, err_msg=name)
