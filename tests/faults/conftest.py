"""A small training that can be stopped anywhere and gone on with; several processes."""

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlptl import Classifier, Run, Trainer, TrainingConfig, load_splits
from tests import processes

SETTINGS = {"num_epochs": 2, "batch_size": 24, "learning_rate": 1e-3, "eval_steps": 3, "logging_steps": 1}
"""96 examples: four steps an epoch, evaluations after steps 3, 6 and 8, none of them at the end of the first epoch."""


@pytest.fixture(scope="module", autouse=True)
def _quick_garbage_collection() -> Iterator[None]:
    """Leave what is imported out of the garbage collection that ends every training: 0.3 s of it each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def train(tiny_bert: Path, toy_csv: Path) -> Callable[..., None]:
    """Train with dropout 0.1 in the folder `output`, and score the test split."""

    def run(output: Path, *, freeze: str = "nothing", resume: bool = False, **settings: object) -> None:
        config = TrainingConfig(**{**SETTINGS, **settings})
        folder = Run.open(output, config, resume=resume)
        splits = load_splits(toy_csv, seed=0)
        folder.record_splits(splits)
        model = Classifier.from_pretrained(tiny_bert, labels=splits.labels, freeze=freeze)
        trainer = Trainer(model, config, output_dir=folder, seed=0)
        trainer.fit(splits["train"], validation=splits["validation"])
        trainer.evaluate(splits["test"])

    return run


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], dict[str, object]]:
    """Return what a finished run has come to: bytes of its files, and its records without the clock."""

    def read(run: Path) -> dict[str, object]:
        files = ("model/model.safetensors", "scores.json", "predictions.csv", "splits.json", "data_report.json")
        found: dict[str, object] = {name: (run / name).read_bytes() for name in files}
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found["records"] = [{key: value for key, value in record.items() if key != "seconds"} for record in records]
        steps = sorted(path.name for path in (run / "checkpoints").iterdir())
        found["checkpoints"] = {name: (run / "checkpoints" / name / "manifest.json").read_bytes() for name in steps}
        return found

    return read


@pytest.fixture
def free_port() -> int:
    """Return a port that nobody listens on."""
    return processes.free_port()


@pytest.fixture
def launch() -> Callable[..., tuple[list[int], list[str]]]:
    """Run a script in several processes; return their exit codes and what they said."""
    return processes.launch
