"""What a run takes: `costs.json`, and the peak of this process."""

import json
from pathlib import Path

import pytest
import torch

from nlptl import Trainer, TrainingConfig
from nlptl.training import costs
from nlptl.training.costs import count_parameters, peak_memory, restart_peak_memory
from nlptl.training.run import Run
from tests import processes

CPU = torch.device("cpu")


def costs_of(folder):
    return json.loads((folder / "costs.json").read_text())


def train(build_model, splits, folder, *, num_epochs=1, resume=False, **settings):
    config = TrainingConfig(num_epochs=num_epochs, batch_size=32)
    run = Run.open(folder, config, resume=resume)
    trainer = Trainer(build_model(**settings), config, output_dir=run)
    trainer.fit(splits["train"], validation=splits["validation"])
    trainer.evaluate(splits["test"])
    return trainer


def test_costs_of_a_run(build_model, splits, tmp_path):
    trainer = train(build_model, splits, tmp_path / "run", freeze="encoder")
    found = costs_of(tmp_path / "run")
    assert list(found) == [
        *("train_seconds", "test_seconds", "test_texts_per_second"),
        *("peak_memory_bytes", "parameters", "trainable_parameters"),
    ]
    assert found["train_seconds"] > 0
    assert found["test_texts_per_second"] == pytest.approx(len(splits["test"]) / found["test_seconds"])
    assert 50e6 < found["peak_memory_bytes"] < 50e9
    assert found["trainable_parameters"] == 2 * 32 + 2
    assert found["parameters"] == sum(p.numel() for p in trainer.model.network.parameters())


def test_what_was_read_from_the_cache_has_no_speed(build_model, splits, tmp_path):
    for name in ("first", "second"):
        train(build_model, splits, tmp_path / name, freeze="encoder")
    assert costs_of(tmp_path / "first")["test_texts_per_second"] is not None
    second = costs_of(tmp_path / "second")
    assert (second["test_seconds"], second["test_texts_per_second"]) == (None, None)
    train(build_model, splits, tmp_path / "third")
    assert costs_of(tmp_path / "third")["test_texts_per_second"] > 0


def test_seconds_of_a_continued_training_are_added_where_they_are_known(build_model, splits, tmp_path):
    train(build_model, splits, tmp_path / "run")
    path = tmp_path / "run/costs.json"
    path.write_text(json.dumps({**costs_of(tmp_path / "run"), "train_seconds": 1000.0}))
    (tmp_path / "run/config.json").write_text(
        (tmp_path / "run/config.json").read_text().replace('"num_epochs": 1', '"num_epochs": 2')
    )
    train(build_model, splits, tmp_path / "run", num_epochs=2, resume=True)
    assert 1000 < costs_of(tmp_path / "run")["train_seconds"] < 2000
    path.unlink()  # as of one that was interrupted
    train(build_model, splits, tmp_path / "run", num_epochs=2, resume=True)
    assert costs_of(tmp_path / "run")["train_seconds"] is None


def test_parameters_are_counted():
    network = torch.nn.Linear(3, 2)
    network.bias.requires_grad = False
    assert count_parameters(network) == {"parameters": 8, "trainable_parameters": 6}


PEAK = """
import torch
from nlptl.training.costs import peak_memory, restart_peak_memory
cpu = torch.device("cpu")
block = bytearray(200_000_000)
high = peak_memory(cpu)
del block
restart_peak_memory(cpu)
print(high, peak_memory(cpu))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system has no peak to be restarted")
def test_peak_memory_starts_again():
    high, after = map(int, processes.run(["-c", PEAK], check=True).stdout.split())
    assert high - after > 150_000_000


def test_peak_memory_where_the_system_has_no_such_files(monkeypatch, tmp_path):
    found = peak_memory(CPU)
    monkeypatch.setattr(costs, "_STATUS", tmp_path / "missing")
    monkeypatch.setattr(costs, "_REFERENCES", tmp_path / "missing/too")
    restart_peak_memory(CPU)
    assert peak_memory(CPU) == pytest.approx(found, rel=0.5)
