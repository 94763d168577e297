"""Folders of made-up runs of every kind of task, as training and judging write them, without training anything."""

import json
from pathlib import Path
from typing import Any

import numpy as np

LABELS = {
    "single_label": ("negative", "positive"),
    "ordinal": ("1", "2", "3", "4", "5"),
    "multi_label": ("anger", "joy", "surprise"),
    "regression": ("score",),
    "tokens": ("O", "B-work", "I-work"),
}
METRICS = {
    "single_label": ("accuracy", "macro_f1", "log_loss"),
    "ordinal": ("quadratic_kappa", "mae", "accuracy"),
    "multi_label": ("average_precision", "micro_f1", "hamming_loss"),
    "regression": ("spearman", "rmse", "r2"),
    "tokens": ("span_f1", "token_accuracy"),
}
BASELINES = {
    "single_label": "majority_baseline",
    "ordinal": "median_baseline",
    "multi_label": "most_frequent_label",
    "regression": "mean_baseline",
    "tokens": "no_spans",
}


def score(value: float, n: int = 400) -> dict[str, float | int]:
    """Return a score as scores.json has it."""
    return {"value": value, "low": value - 0.04, "high": value + 0.03, "n": n}


def write_run(
    folder: Path,
    task: str = "single_label",
    *,
    labels: tuple[str, ...] | None = None,
    text: str = "A film to remember.",
    column: str = "length",
    dataset: str = "reviews.csv",
    analysed: bool = True,
) -> Path:
    """Write the files of a made-up run into `folder`, with such labels, texts, column and data set; return it.

    Without `analysed`, there is only what training writes.
    """
    rng = np.random.default_rng(0)
    labels = LABELS[task] if labels is None else labels
    metrics = METRICS[task]
    first = metrics[0]
    per_class = {label: {m: score(0.7 + 0.1 * i, 200) for i, m in enumerate(("recall", "f1"))} for label in labels}
    of_split = {metric: score(0.75 - 0.05 * i) for i, metric in enumerate(metrics)}
    nothing = {metric: score(0.5) for metric in metrics} | {"per_class": {}}
    files: dict[str, Any] = {
        "config.json": {"task": task, "model": "owner/encoder", "dataset": dataset, "train": {"num_epochs": 3}},
        "manifest.json": {
            "task": task,
            "labels": list(labels),
            "max_length": 256,
            "freeze": "encoder",
            "head": "dense",
            "pooling": "mean",
            "encoder_sha256": "ab" * 32,
            "command": ["recipe.py", "--dataset", dataset],
            "versions": {"python": "3.11.7", "nlptl": "0.1.0"},
            "hardware": {"device": "cpu", "cpus": 2, "device_name": None},
        },
        "data_report.json": {
            "data_sha256": "cd" * 32,
            "labels": {s: dict.fromkeys(labels, 50) for s in ("train", "test")} if task != "regression" else {},
            "findings": [
                {
                    "kind": "duplicate",
                    "message": f"{dataset}: texts of train that occur twice: 3 rows (1, 2, 3)",
                    "count": 3,
                    "rows": [1, 2, 3],
                    "severity": "warning",
                    "meaning": "These texts weigh more than others.",
                    "action": "Pass --deduplicate.",
                    "like": [],
                }
            ],
            "truncation": {"train": {"cut_texts": 0.5, "cut_tokens": 0.25}, "test": {"cut_texts": 0.25}},
        },
        "splits.json": {"train": list(range(800)), "validation": list(range(100)), "test": list(range(400))},
        "scores.json": {
            "validation": of_split | {"per_class": {}},
            BASELINES[task]: {"validation": nothing, "test": nothing},
            "test": of_split | {"per_class": per_class},
        },
    }
    if analysed:
        files |= _judgements(rng, task, labels, first, text, column)
    folder.mkdir(parents=True)
    for name, values in files.items():
        # As the run does: a half of a surrogate pair, which UTF-8 does not have, is written as an escape.
        content = json.dumps(values, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(content, encoding="utf-8", errors="backslashreplace")
    records = [
        {"step": 10 * i, "loss": 1 / i, "learning_rate": 0.001 / i, "epoch": i, f"validation_{first}": 0.5 + 0.05 * i}
        for i in range(1, 6)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def _judgements(
    rng: np.random.Generator, task: str, labels: tuple[str, ...], metric: str, text: str, column: str
) -> dict[str, Any]:
    error = {"row": 17, "text": text, "label": labels[0], "predicted": labels[-1], "probability": 0.98, "loss": 4.1}
    bins = [
        {"low": i / 5, "high": (i + 1) / 5, "n": 0 if i == 0 else 80, "confidence": i / 5 + 0.1, "accuracy": i / 5}
        for i in range(5)
    ]
    bins[0] |= {"confidence": None, "accuracy": None}
    figures = {"ece": 0.12, "brier": 0.2, "log_loss": 0.5}
    has_classes = task in ("single_label", "ordinal")
    counts = rng.integers(0, 30, (len(labels), len(labels))) + 100 * np.eye(len(labels), dtype=int)
    part = {"n": 40, "score": 0.4, "low": 0.3, "high": 0.5, "difference": -0.35, "p": 0.0001}
    rows = [
        {"column": column, "value": text[:40], **part, "flagged": True},
        {"column": column, "value": "long", **part, "p": 0.4, "flagged": False},
    ]
    analysis = {
        "split": "test",
        "task": task,
        "n": 400,
        "texts_shown": "whole",
        "calibration": {
            "method": "temperature",
            "parameters": {"temperature": 1.7},
            "before": figures,
            "after": {key: value / 2 for key, value in figures.items()},
            "reliability": {"before": bins, "after": bins},
        }
        if task not in ("regression", "tokens")
        else None,
        "confusion": {"names": list(labels), "counts": counts.tolist()} if has_classes else None,
        "confused": [{"label": labels[0], "predicted": labels[-1], "count": 12, "share": 0.06}] if has_classes else [],
        "errors": {"highest_loss": [error], "most_confident": [error]},
        "slices": {"metric": metric, "overall": 0.75, "tested": 20, "rows": rows},
        "probes": [
            {
                **{"name": "typos", "changed": 390, "score": 0.7, "low": 0.66, "high": 0.74, "flipped": 0.1},
                **{"difference": -0.05, "difference_low": -0.08, "difference_high": -0.02},
            },
            {"name": "negation", "changed": 90, "flipped": 0.4}
            | dict.fromkeys(("score", "low", "high", "difference", "difference_low", "difference_high")),
        ],
        "attributions": [
            {
                "row": 17,
                "label": labels[0],
                "predicted": labels[-1],
                "tokens": [[word, 0.4 - 0.3 * i] for i, word in enumerate(text.split(" "))],
            }
        ],
    }
    return {
        "analysis.json": analysis,
        "baselines.json": {
            "metric": metric,
            "rows": [
                {"name": "frozen encoder (this run)", "scores": {metric: score(0.75)}, "train_seconds": 9.0},
                {"name": "majority", "scores": {metric: score(0.5)}, "train_seconds": 0.0, "parameters": 0},
                {
                    "name": "TF-IDF and logistic regression",
                    "scores": {metric: score(0.7)},
                    "train_seconds": 1.5,
                    "parameters": 20000,
                    "trainable_parameters": 20000,
                },
            ],
            "gain": {
                "row": "frozen encoder (this run)",
                "over": "majority",
                "difference": 0.25,
                "low": 0.2,
                "high": 0.3,
                "p": 0.0001,
            },
            "warning": None,
        },
        "costs.json": {
            "train_seconds": 340.5,
            "test_seconds": 2.1,
            "test_texts_per_second": 190.0,
            "peak_memory_bytes": 753_000_000,
            "parameters": 22_713_986,
            "trainable_parameters": None,
        },
    }
