"""Folders of runs of each kind of task, written from what a task makes of random outputs, as a trainer does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlptl import Examples, MultiLabel, Ordinal, Regression, SingleLabel, TokenLabels
from nlptl.data.writers import write_json, write_table
from nlptl.tasks.task import Task

TAGS = ("O", "B-x", "I-x")
TASKS: dict[str, Task] = {
    "single_label": SingleLabel(("no", "yes", "unsure")),
    "ordinal": Ordinal(("1", "2", "3", "4")),
    "multi_label": MultiLabel(("a", "b", "c"), thresholds=(0.3, 0.5, 0.6)),
    "regression": Regression(("score",)),
    "two scores": Regression(("depth", "tone")),
    "tokens": TokenLabels(TAGS),
}


def labels_of(kind: str, count: int) -> list[Any]:
    """Return labels, the same in each call, in the form that users have them."""
    rng = np.random.default_rng(0)
    if kind == "multi_label":
        return [[name for name in "abc" if rng.random() < 0.4] for _ in range(count)]
    if kind == "tokens":
        return [["B-x", "I-x", "O", "B-x"] if rng.random() < 0.7 else ["O"] * 4 for _ in range(count)]
    if kind == "regression":
        return rng.normal(size=count).tolist()
    return [TASKS[kind].names[i] for i in rng.integers(len(TASKS[kind].names), size=count)]


def examples_of(kind: str, count: int) -> Examples:
    if kind == "two scores":
        pairs = np.random.default_rng(0).normal(size=(count, 2)).tolist()
        labels = [json.dumps(dict(zip(("depth", "tone"), pair, strict=True))) for pair in pairs]
        return Examples([f"text {i}" for i in range(count)], labels, list(range(count)), split="test")
    texts = [["In", "Rome", "on", "Monday"] if kind == "tokens" else f"text {i}" for i in range(count)]
    return Examples.from_lists(texts, labels_of(kind, count), task=kind, split="test")


def outputs_of(task: Task, targets: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Return outputs that are right but for noise: 0 is perfect."""
    rng = np.random.default_rng(seed)
    if isinstance(task, Regression):
        return targets + noise * rng.normal(size=targets.shape)
    if isinstance(task, MultiLabel):
        return np.clip(targets * 0.8 + 0.1 + noise * rng.normal(size=targets.shape), 0, 1)
    ids = np.concatenate(targets) if task.kind == "tokens" else targets
    scores = 3.0 * np.eye(len(task.names))[ids] + 3 * noise * rng.normal(size=(len(ids), len(task.names)))
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes the folder of a run of a kind of task, the better the less noise."""

    def write(
        name: str,
        kind: str = "single_label",
        *,
        noise: float = 0.5,
        count: int = 200,
        seed: int = 1,
        sha256: str | None = "same",
        **settings: object,
    ) -> Path:
        folder, task, examples = tmp_path / name, TASKS[kind], examples_of(kind, count)
        folder.mkdir(parents=True)
        targets = task.targets(examples)
        outputs = outputs_of(task, targets, noise, seed)
        columns = task.columns(outputs, examples.texts, examples.texts, name="predicted")
        write_table(folder / "predictions.csv", [{"row": examples.rows, "label": examples.labels, **columns}])
        write_json(folder / "scores.json", {"test": task.score(targets, outputs, seed=0).to_json()})
        values = {"task": task.kind, "output_dir": str(folder), "train": {"num_epochs": 3}, **settings}
        write_json(folder / "config.json", values)
        write_json(folder / "manifest.json", {"task": task.kind})
        report = {} if sha256 is None else {"test_sha256": sha256}
        write_json(folder / "data_report.json", report)
        costs = {"train_seconds": 12.34, "test_texts_per_second": None, "peak_memory_bytes": 5e8}
        write_json(folder / "costs.json", {**costs, "trainable_parameters": 1234})
        return folder

    return write
