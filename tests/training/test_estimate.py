"""Estimates before the first step: they are about right, and making one changes nothing."""

import logging
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch

from nlptl import ConfigError, ResourceError, Run, Trainer, TrainingConfig
from nlptl.training.encoding import FrozenEncoder
from nlptl.training.estimate import Estimate, check_disk
from nlptl.training.inputs import encoder_sha256, prepare_inputs

Usage = namedtuple("Usage", "total used free")
SETTINGS = {
    "above a cut": ({"freeze": 1}, {}),
    "stages": ({}, {"unfreeze_every_epochs": 1}),
    "low-rank updates": ({"lora_rank": 2}, {"optimizer": "sgd", "cache": False}),
    "a pooling that trains": ({"freeze": "encoder", "pooling": "attention"}, {}),
}
for_all_settings = pytest.mark.parametrize(("transfer", "train"), SETTINGS.values(), ids=SETTINGS)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}


def config(**settings):
    return TrainingConfig(**{"num_epochs": 3, "batch_size": 24, "micro_batch_tokens": 128, **settings})


def pretend_free(monkeypatch, size):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 * size, 9 * size, size))


@for_all_settings
def test_weights_are_the_same_bytes_with_an_estimate_and_without(transfer, train, build_model, splits):
    found = []
    for num_estimates in (0, 2):
        model = build_model(**transfer)
        trainer = Trainer(model, config(**train), seed=3)
        for _ in range(num_estimates):
            trainer.estimate(splits["train"], validation=splits["validation"])
        trainer.fit(splits["train"], validation=splits["validation"])
        found.append(weights(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@for_all_settings
def test_an_estimate_leaves_no_trace(transfer, train, build_model, splits):
    model = build_model(**transfer)
    model.network.register_buffer("count", torch.zeros(()))

    def count(module, args):
        module.count += 1

    handle = model.network.register_forward_pre_hook(count)
    for parameter in model.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = weights(model)
    for is_training in (True, False):
        model.train(is_training)
        states = torch.get_rng_state(), np.random.get_state()[1].tolist()
        trained = {name for name, p in model.network.named_parameters() if p.requires_grad}
        Trainer(model, config(**train)).estimate(splits["train"], validation=splits["validation"])
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]
        assert {name for name, p in model.network.named_parameters() if p.requires_grad} == trained
    handle.remove()
    assert model.network.count == 0
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())
    assert all(bool((p.grad == 1).all()) for p in model.network.parameters())


@for_all_settings
def test_sizes_are_those_of_the_training(transfer, train, build_model, splits, tmp_path):
    model = build_model(**transfer)
    settings = config(num_epochs=6, **train)
    trainer = Trainer(model, settings, output_dir=tmp_path / "run")
    estimate = trainer.estimate(splits["train"], validation=splits["validation"])
    trained = sum(p.nbytes for p in model.network.parameters() if p.requires_grad)
    assert estimate.memory["weights"] == sum(p.nbytes for p in model.network.parameters())
    assert estimate.memory["gradients"] == trained
    assert estimate.memory["optimizer"] == trained * (1 if settings.optimizer == "sgd" else 2)
    assert estimate.num_steps == 6 * 4

    trainer.fit(splits["train"], validation=splits["validation"])
    sizes = {p: p.stat().st_size for p in (tmp_path / "run").rglob("*.safetensors")}
    of_states = [size for path, size in sizes.items() if path.name == "optimizer.safetensors"]
    assert len(of_states) in (2, 3)
    assert max(of_states) == pytest.approx(estimate.memory["optimizer"], rel=0.1, abs=8000)  # names and steps
    one_checkpoint = sum(size for path, size in sizes.items() if path.parent.name == "step-000024")
    assert sum(sizes.values()) < estimate.disk < sum(sizes.values()) + 2 * one_checkpoint + 6e6


def test_a_training_starts_with_the_estimate_and_runs_nothing_for_it(build_model, splits, caplog):
    caplog.set_level(logging.INFO)
    model, before_training = build_model(), []
    model.network.register_forward_pre_hook(lambda *_: before_training.append(len(caplog.messages)))
    Trainer(model, config()).fit(splits["train"], validation=splits["validation"])
    line = next(message for message in caplog.messages if message.startswith("estimate: "))
    assert re.fullmatch(
        r"estimate: about [\d,]+ MB of memory \(.*Python and libraries [\d,]+\), 6 MB of disk; 12 steps in "
        r"micro-batches of up to 128 tokens on cpu",
        line,
    )
    assert min(before_training) > caplog.messages.index(line)


def test_in_words():
    memory = {"weights": 91_000_000, "gradients": 91_000_000, "optimizer": 182_000_000, "best weights": 0}
    estimate = Estimate(memory, 1_100_000_000, 640, 512, "cpu", 1, 200.0)
    assert estimate.describe() == (
        "estimate: about 364 MB of memory (weights 91, gradients 91, optimizer 182), 1,100 MB of disk; 640 steps in "
        "micro-batches of up to 512 tokens on cpu, about 3 min"
    )
    assert "364 MB of memory in each of 4 processes (weights" in replace(estimate, num_processes=4).describe()
    assert replace(estimate, seconds=13.2, num_steps=0).describe().endswith("1,100 MB of disk; on cpu, about 13 s")
    assert replace(estimate, seconds=7500).describe().endswith(" on cpu, about 2 h 5 min")


def test_memory_that_suffices_for_a_part_of_the_micro_batch(build_model, splits):
    model, sizes = build_model(), []

    def run_out(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("Tried to allocate 9.00 GiB: out of memory.")

    model.network.register_forward_pre_hook(run_out, with_kwargs=True)
    assert Trainer(model, config()).estimate(splits["train"]).seconds > 0
    assert max(sizes) > 2
    assert 1 <= sizes[-1] <= 2


def test_a_text_that_does_not_fit_is_an_error(build_model, splits):
    def run_out(module, args):
        raise torch.OutOfMemoryError("Tried to allocate 9.00 GiB: out of memory.")

    model = build_model()
    model.network.register_forward_pre_hook(run_out)
    with pytest.raises(ResourceError, match=r"Out of memory with a single text of \d+ tokens: Tried .*--max-length"):
        Trainer(model, config()).estimate(splits["train"])


def test_another_error_is_not_taken_for_memory(build_model, splits):
    def fail(module, args):
        raise RuntimeError("a dimension that does not fit")

    model = build_model()
    model.network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="a dimension that does not fit"):
        Trainer(model, config()).estimate(splits["train"])


def test_disk_that_does_not_suffice_is_an_error_before_training(build_model, splits, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        pretend_free(patch, 1_000_000)
        with pytest.raises(
            ResourceError,
            match=r"The checkpoints and the model in .*run need about 6 MB of disk, but only 1 MB are free\. Free some "
            r"space, train fewer parameters \(--freeze, --lora-rank\), or pass an --output-dir on another disk",
        ) as error:
            Trainer(build_model(), config(), output_dir=tmp_path / "run").fit(splits["train"])
    assert error.value.exit_code == 6
    assert not (tmp_path / "run/manifest.json").exists()
    Trainer(build_model(), config(), output_dir=tmp_path / "run").fit(splits["train"])


def test_what_will_be_replaced_counts_as_free(tmp_path, monkeypatch):
    (tmp_path / "run/checkpoints/step-000001").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step-000001/weights.safetensors").write_bytes(bytes(2_000_000))
    pretend_free(monkeypatch, 1_000_000)
    check_disk(tmp_path / "run", 3_000_000)
    check_disk(tmp_path / "neither/of/these", 1_000_000)
    with pytest.raises(ResourceError, match="need about 3 MB of disk, but only 3 MB are free"):
        check_disk(tmp_path / "run", 3_000_001)


def test_what_is_left_of_a_run_that_is_resumed(build_model, splits, tmp_path, caplog):
    Trainer(build_model(), config(num_epochs=1), output_dir=tmp_path / "run").fit(splits["train"])
    caplog.set_level(logging.INFO)
    longer = config(num_epochs=2)
    run = Run.open(tmp_path / "run", longer, resume=True)
    Trainer(build_model(), longer, output_dir=run).fit(splits["train"])
    assert "; 4 steps in " in next(m for m in caplog.messages if m.startswith("estimate: "))


@pytest.mark.parametrize("head", ["dense", "logistic"])
def test_features_in_the_cache_take_no_time(head, build_model, splits, feature_cache):
    model = build_model(freeze="encoder", head=head)
    settings = TrainingConfig()
    trainer = Trainer(model, settings)
    first = trainer.estimate(splits["train"])
    assert not feature_cache.exists()
    trainer.fit(splits["train"])
    inputs = prepare_inputs(model, splits["train"], None)
    assert FrozenEncoder(model, trainer.accelerator, trainer.cache, encoder_sha256(model)).has(inputs)
    again = Trainer(model, settings).estimate(splits["train"])
    assert again.seconds == pytest.approx(0 if head == "logistic" else 0.03)  # steps of a head, a millisecond each
    assert first.seconds > again.seconds
    assert (again.num_steps, first.num_steps) == (0, 0) if head == "logistic" else (30, 30)


def test_an_estimate_refuses_what_training_would(build_model, splits):
    with pytest.raises(ConfigError, match="early_stopping needs a validation split"):
        Trainer(build_model(), config(early_stopping=2)).estimate(splits["train"])


PEAK = """
import sys
from nlptl import Classifier, Examples, Trainer, TrainingConfig
model = Classifier.from_pretrained("sample:minilm", labels=("negative", "positive"), **eval(sys.argv[1]))
words = "the film was good and the plot was not bad at all but rather long".split()
texts = [" ".join(words[(i * 7 + k) % len(words)] for k in range(10 + i % 50)) for i in range(64)]
examples = Examples.from_lists(texts, ["negative", "positive"] * 32)
trainer = Trainer(model, TrainingConfig(num_epochs=2, batch_size=16), output_dir=sys.argv[2])
estimate = trainer.estimate(examples, validation=examples)
trainer.fit(examples, validation=examples)
# Not getrusage, whose peak goes on from that of the process that has started this one.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(sum(estimate.memory.values()), peak * 1024)
"""


@pytest.mark.nightly
@pytest.mark.parametrize("transfer", [{}, {"freeze": 4}], ids=str)
def test_memory_is_what_the_process_takes_at_its_peak(transfer, tmp_path):
    command = [sys.executable, "-c", PEAK, repr(transfer), tmp_path / "run"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    estimated, peak = map(int, out.split())
    assert estimated == pytest.approx(peak, rel=0.3), f"{estimated / 1e6:.0f} MB, {peak / 1e6:.0f} MB"
