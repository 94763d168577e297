"""What the tests of several processes run in each of them: `python worker.py JOB MODEL_FOLDER OUTPUT_FOLDER`.

A job leaves what it found in the output folder, under its name, rank and number of processes.
"""

import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import torch
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nlptl import (
    Classifier,
    Examples,
    MultiLabel,
    Ordinal,
    Regression,
    Run,
    SingleLabel,
    TokenLabels,
    Trainer,
    TrainingConfig,
    UserError,
)
from nlptl.tasks.task import Task
from nlptl.training.devices import processes
from tests.conftest import options

WORDS = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
KINDS = {
    "softmax": ({}, {}),
    "softmax smoothed": ({}, {"label_smoothing": 0.1}),
    "sigmoid": ({"binary_loss": "sigmoid"}, {}),
    "sigmoid smoothed": ({"binary_loss": "sigmoid"}, {"label_smoothing": 0.1}),
    "softmax weighted": ({}, {"class_weights": (0.7, 2.5), "label_smoothing": 0.1}),
    "sigmoid weighted": ({"binary_loss": "sigmoid"}, {"class_weights": "balanced", "label_smoothing": 0.1}),
    "chunks": ({"long_text": "chunks", "max_length": 8, "chunk_pooling": "attention"}, {}),
}
"""Settings of the head and of the training."""
GRADIENTS = [*(("softmax", count) for count in (1, 2, 3, 8)), *zip([*KINDS][1:], (3, 1, 8, 2, 3, 8), strict=True)]
"""Kinds, with the number of examples in a batch: fewer than there are processes, as many, more."""


def _tags(_: int, text: str) -> str:
    return " ".join("B-film" if word in ("film", "story") else "O" for word in text.split(" "))


def _labels(_: int, text: str) -> str:
    return json.dumps(sorted({word for word in text.split(" ") if word in ("good", "bad", "film")}))


TASKS: dict[str, tuple[type[Task], Callable[[int, str], str], dict[str, object]]] = {
    "tags": (TokenLabels, _tags, {"class_weights": "balanced"}),
    "labels": (MultiLabel, _labels, {"loss": "asymmetric"}),
    "scores": (Regression, lambda i, text: str(len(text) + i / 7), {}),
    "ordinal": (Ordinal, lambda _, text: str(min(3, text.count("o"))), {}),
    "pairs": (SingleLabel, lambda i, _: "yes" if i % 3 else "no", {"sampling": "balanced"}),
}
"""Kinds of tasks: how a target comes from a text, and settings of the training."""


class Stopped(BaseException):
    """No error that anything catches."""


def examples(count: int, split: str = "train") -> Examples:
    """Return texts of different lengths, labelled by a word."""
    texts = [" ".join(WORDS[(i * 7 + 3 * k) % 10] for k in range(1 + (i * 5) % 14)) for i in range(count)]
    return Examples.from_lists(texts, ["positive" if i % 3 else "negative" for i in range(count)], split=split)


def build(folder: Path, **settings: object) -> Classifier:
    """Return a float64 model without dropout."""
    settings = {"dropout": 0.0, **settings}
    return Classifier.from_pretrained(folder, labels=("negative", "positive"), **options(**settings)).double()


def weights(model: Classifier) -> dict[str, torch.Tensor]:
    """Return copies of all weights."""
    return {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}


def gradients(folder: Path, output: Path, suffix: str) -> None:
    """One step on batches of few examples, down to fewer than there are processes."""
    for kind, count in GRADIENTS:
        head, settings = KINDS[kind]
        model = build(folder, **head)
        found: dict[str, torch.Tensor] = {}

        def look(*_: object, model: Classifier = model, found: dict[str, torch.Tensor] = found) -> None:
            trained = ((name, p) for name, p in model.network.named_parameters() if p.requires_grad)
            found.update({name: p.grad.clone() for name, p in trained})

        config = TrainingConfig(
            num_epochs=1,
            batch_size=8,
            optimizer="sgd",
            max_grad_norm=0,
            micro_batch_tokens=30,
            logging_steps=1,
            **settings,
        )
        name = f"gradients-{kind}-{count}"
        run = Run.open(output / f"{name}-{processes().num_processes}", config)
        handle = register_optimizer_step_pre_hook(look)
        Trainer(model, config, output_dir=run).fit(examples(count))
        handle.remove()
        save_file(found, output / f"{name}-{suffix}.safetensors")


def evaluation(folder: Path, output: Path, suffix: str) -> None:
    """Score more examples than any number of processes divides, computed and from features."""
    for freeze in ("nothing", "encoder"):
        config = TrainingConfig(num_epochs=1, batch_size=8, learning_rate=1e-3)
        run = Run.open(output / f"evaluation-{freeze}-{processes().num_processes}", config)
        trainer = Trainer(build(folder, freeze=freeze), config, output_dir=run)
        trainer.fit(examples(8))
        scores = trainer.evaluate(examples(1003, "test")).to_json()
        (output / f"evaluation-{freeze}-{suffix}.json").write_text(json.dumps(scores))


def training(folder: Path, output: Path, suffix: str) -> None:
    """Several epochs of AdamW with a run folder, full and frozen, and scores on validation and test."""
    for freeze in ("nothing", "encoder"):
        model = build(folder, freeze=freeze)
        config = TrainingConfig(num_epochs=2, batch_size=8, learning_rate=1e-3, eval_steps=3, logging_steps=1)
        run = Run.open(output / f"run-{freeze}-{processes().num_processes}", config)
        trainer = Trainer(model, config, output_dir=run)
        trainer.fit(examples(21), validation=examples(13, "validation"))
        scores = trainer.evaluate(examples(11, "test")).to_json()
        save_file(weights(model), output / f"training-{freeze}-{suffix}.safetensors")
        (output / f"training-{freeze}-{suffix}.json").write_text(json.dumps(scores))


def tasks(folder: Path, output: Path, suffix: str) -> None:
    """A training of each kind of task, with fewer examples in its last step than processes, and scores on a test."""
    for name, (cls, target, settings) in TASKS.items():

        def of_task(
            count: int, split: str = "train", name: str = name, target: Callable[[int, str], str] = target
        ) -> Examples:
            found = examples(count, split)
            targets = [target(i, text) for i, text in enumerate(found.texts)]
            return replace(found, labels=targets, pairs=list(found.texts)[::-1] if name == "pairs" else ())

        model = Classifier.from_pretrained(
            folder, task=cls.from_examples(of_task(17)), pairs=name == "pairs", dropout=0.0
        )
        config = TrainingConfig(num_epochs=2, batch_size=8, learning_rate=1e-3, micro_batch_tokens=40, **settings)
        trainer = Trainer(model.double(), config)
        trainer.fit(of_task(17), validation=of_task(11, "validation"))
        scores = trainer.evaluate(of_task(11, "test"))
        save_file(weights(model), output / f"task-{name}-{suffix}.safetensors")
        (output / f"task-{name}-{suffix}.json").write_text(json.dumps(scores.to_json()))


def interrupted(folder: Path, output: Path, suffix: str) -> None:
    """The full training above, interrupted in its fifth step on all processes."""
    steps = []

    def stop(*_: object) -> None:
        steps.append(1)
        if len(steps) == 5:
            raise Stopped

    handle = register_optimizer_step_post_hook(stop)
    try:
        resumed(folder, output, suffix)
    except Stopped:
        # The main process waits for what it writes before the error comes out; the other one does not.
        if suffix.startswith("0"):
            assert [path.name for path in (output / "interrupted/checkpoints").iterdir()] == ["step-000003"]
    finally:
        handle.remove()


def resumed(folder: Path, output: Path, suffix: str) -> None:
    """What is left to do of the training above, on as many processes as there are."""
    config = TrainingConfig(num_epochs=2, batch_size=8, learning_rate=1e-3, eval_steps=3, logging_steps=1)
    model = build(folder)
    trainer = Trainer(model, config, output_dir=Run.open(output / "interrupted", config, resume=True))
    trainer.fit(examples(21), validation=examples(13, "validation"))
    save_file(weights(model), output / f"resumed-{suffix}.safetensors")


def errors(folder: Path, output: Path, suffix: str) -> None:
    """Mistakes that the main process alone can see, and numbers that one process alone sees, stop all of them."""
    config = TrainingConfig(num_epochs=1, batch_size=8)
    here = output / f"errors-{processes().num_processes}"
    model = build(folder)

    def poison(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        return logits * float("nan") if suffix.startswith("1") or processes().num_processes == 1 else logits

    def train_with_nan() -> None:
        before = weights(model)
        handle = model.register_forward_hook(poison)
        try:
            Trainer(model, config, output_dir=Run.open(here / "nan", config)).fit(examples(8))
        finally:
            handle.remove()
            assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())

    Run.open(here / "run", config).record_data({"seed": 0})
    (output / "file").touch()
    attempts = {
        "claimed": lambda: Run.open(here / "run", config),
        "file": lambda: Run.open(output / "file", config),
        "below a file": lambda: Run.open(output / "file" / "run", config),
        "nan": train_with_nan,
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            found[name] = [type(error).__name__, str(error)]
    new = Run.open(here / "new", config, resume=True)
    new.record_data({"seed": 0})
    resumed = new.resume, Run.open(here / "new", config, resume=True).resume
    (output / f"errors-{suffix}.json").write_text(json.dumps({"errors": found, "resumed": resumed}))


def crash(folder: Path, output: Path, suffix: str) -> None:
    """One process fails in the middle of training, in a way that nobody has thought of."""
    model = build(folder)

    def fail(*_: object) -> None:
        if suffix.startswith("1"):
            raise RuntimeError("one process fails")

    model.register_forward_pre_hook(fail)
    Trainer(model, TrainingConfig(num_epochs=1, batch_size=8)).fit(examples(8))


JOBS = {job.__name__: job for job in (gradients, evaluation, training, tasks, interrupted, resumed, errors, crash)}


def main(jobs: list[str], folder: Path, output: Path) -> None:
    """Run `jobs` in this process, one of as many as the launcher has started."""
    state = processes()
    for job in jobs:
        JOBS[job](folder, output, f"{state.process_index}-of-{state.num_processes}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is left out of the garbage collection that ends every training
    main(sys.argv[1].split(","), Path(sys.argv[2]), Path(sys.argv[3]))
