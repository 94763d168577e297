"""A small training that can be stopped anywhere and gone on with; several processes, started and cleared away."""

import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from nlptl import Classifier, Run, Trainer, TrainingConfig, load_splits

REPOSITORY = Path(__file__).parents[2]

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def launch(free_port: int) -> Iterator[Callable[..., tuple[list[int], list[str], list[float]]]]:
    """Run a script in several processes; return their exit codes, what they said, and when they ended, in seconds."""
    workers: list[subprocess.Popen[str]] = []

    def run(
        words: Sequence[str], *, processes: int = 2, timeout: float = 100, leave: Sequence[int] = (), **variables: str
    ) -> tuple[list[int], list[str], list[float]]:
        """Those in `leave` are not waited for: they are killed when the others have ended."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            **variables,
        }
        started = [
            subprocess.Popen(
                [sys.executable, *words],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(processes)
        ]
        workers.extend(started)
        deadline, ended = time.monotonic() + timeout, [0.0] * processes
        said = [""] * processes
        for rank in sorted(range(processes), key=lambda rank: rank in leave):
            if rank in leave:
                started[rank].kill()
            said[rank] = started[rank].communicate(timeout=max(1, deadline - time.monotonic()))[0]
            ended[rank] = time.monotonic()
        return [worker.returncode for worker in started], said, ended

    yield run
    for worker in workers:
        worker.kill()
        worker.wait()
