"""Writes the folders of tests/formats as nlptl 0.1.0 (commit c9f7f72) did: run in a checkout of it, `write.py TARGET`.

Kept to say how the folders came about; it needs the code, the settings and the helpers of tests of that version.
"""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from nlptl import Classifier, Trainer, TrainingConfig, cli, load_splits, make_task
from nlptl.training import loop
from recipes import sentiment
from tests.conftest import WORDS, build_model, toy_rows

torch.set_num_threads(1)
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}
TEXTS = ["a great lovely movie .", "this film was never good , but dull", "boring !"]

MODELS = {
    "native": ("single_label", {}, {}),
    "dense": ("single_label", {"pooling": "mean", "hidden": 8, "binary_loss": "sigmoid", "layers": "mix"}, {}),
    "logistic": ("single_label", {"freeze": "encoder", "head": "logistic"}, {}),
    "knn": ("single_label", {"freeze": "encoder", "head": "knn", "neighbors": 3}, {}),
    "lora": ("single_label", {"lora_rank": 2, "dora": True}, {}),
    "chunks": ("single_label", {"long_text": "chunks", "max_length": 5, "chunk_pooling": "attention"}, {}),
    "decisions": (
        "single_label",
        {},
        {
            "calibration": "vector",
            "threshold_metric": "f1",
            "target_accuracy": 0.6,
            "coverage": 0.8,
            "conformal_score": "lac",
            "out_of_scope": 0.9,
        },
    ),
    "ordinal": ("ordinal", {}, {"target_accuracy": 0.6}),
    "aps": ("ordinal", {}, {"coverage": 0.8, "conformal_score": "aps"}),
    "multi_label": ("multi_label", {}, {}),
    "regression": ("regression", {}, {}),
    "tokens": ("tokens", {}, {}),
}


def write_data(folder: Path) -> None:
    """Write toy data of every kind of task."""
    rows = toy_rows(100)
    with (folder / "single_label.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    with (folder / "ordinal.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, i % 3 + 1) for i, (text, _) in enumerate(rows))])
    with (folder / "regression.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, 100 + len(text)) for text, _ in rows)])
    sets = [[name for name in ("plot", "acting", "fun") if len(text) % len(name) < 2] for text, _ in rows]
    lines = [json.dumps({"text": text, "label": labels}) for (text, _), labels in zip(rows, sets, strict=True)]
    (folder / "multi_label.jsonl").write_text("\n".join(lines) + "\n")
    words = [text.split() for text, _ in rows]
    tags = [["B-VIEW" if word in WORDS[20:36] else "O" for word in each] for each in words]
    lines = [json.dumps({"tokens": each, "tags": of}) for each, of in zip(words, tags, strict=True)]
    (folder / "tokens.jsonl").write_text("\n".join(lines) + "\n")


def predictions(model: Classifier) -> dict[str, object]:
    """Return what a model makes of TEXTS, as JSON."""
    answers = json.loads(json.dumps(model.predict(TEXTS), default=dataclasses.asdict))
    return {"texts": TEXTS, "outputs": model.predict_outputs(TEXTS).tolist(), "answers": answers}


def write_model(name: str, folder: Path, target: Path) -> None:
    """Train a model for an epoch and save it with its predictions."""
    kind, settings, training = MODELS[name]
    data = folder / f"{kind}.csv"
    splits = load_splits(data if data.exists() else folder / f"{kind}.jsonl", task=kind, seed=0)
    model = Classifier.from_pretrained(folder / "encoder", task=make_task(splits), **settings)
    by_gradient = {} if "head" in settings else {"num_epochs": 2, "learning_rate": 1e-3}
    config = TrainingConfig(**by_gradient, **training)
    Trainer(model, config, seed=0).fit(splits["train"], validation=splits["validation"])
    model.save(target / name)
    (target / name / "predictions.json").write_text(json.dumps(predictions(model)))


class Killed(Exception):
    """Ends a training as if the process had been killed."""


def write_runs(folder: Path, target: Path) -> None:
    """Write a run that was killed after step 4 of 8, what it would have come to, and settings that are gone now."""
    os.chdir(folder)  # the paths in config.json are relative
    flags = ["--model", "encoder", "--dataset", "single_label.csv", "--no-report", "--freeze", "nothing"]
    flags += ["--num-epochs", "4", "--batch-size", "24", "--learning-rate", "1e-3", "--save-steps", "2"]
    sentiment.main(cli.parse(sentiment.Config, [*flags, "--output-dir", "whole"]))
    expected = json.dumps(predictions(Classifier.from_pretrained("whole/model")))

    save = loop.save_checkpoint

    def save_and_end(path: Path, step: int, *args: object, **settings: object) -> None:
        save(path, step, *args, **settings)
        if step == 4:
            raise Killed

    loop.save_checkpoint = save_and_end
    with contextlib.suppress(Killed):
        sentiment.main(cli.parse(sentiment.Config, [*flags, "--output-dir", "run"]))
    loop.save_checkpoint = save
    killed = target / "killed"
    shutil.copytree("run", killed / "run", ignore=shutil.ignore_patterns("step-000002", ".*"))
    shutil.copytree("encoder", killed / "encoder")
    shutil.copy("single_label.csv", killed)
    (killed / "predictions.json").write_text(expected)

    gone = ["--mixout", "0.1", "--l2-sp", "0.01", "--output-dir", "regularized", "--num-epochs", "1"]
    sentiment.main(cli.parse(sentiment.Config, [*flags[:-8], *gone]))
    shutil.copytree("regularized", target / "regularized", ignore=shutil.ignore_patterns("checkpoints", "model", ".*"))


def main() -> None:
    """Write everything into the folder that is given."""
    target = Path(sys.argv.pop()).absolute()  # manifest.json holds what is left
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder)
        build_model("bert", folder / "encoder", **SHAPE)
        for name in MODELS:
            write_model(name, folder, target)
        write_runs(folder, target)


if __name__ == "__main__":
    main()
