"""What a user waits for: from the start of a process to the first optimizer step, and to the end of a frozen run.

Both sides read the same reviews from disk. Up to the first step, all of the encoder trains, and both find what an
earlier run has cached. A whole frozen run begins with empty caches and ends with a saved model and its test accuracy.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import Check, Job, System, quiet

BATCH_SIZE, MAX_LENGTH = 32, 256


class FirstStepError(BaseException):
    """Ends a training when its first step is done."""


def start_ours(job: Job) -> Callable[[], Check]:
    """Return what starts `nlptl run sentiment`; to see the first step, torch is imported before all else."""
    return lambda: _until_first_step(job, lambda: _run_command(job))


def _run_command(job: Job) -> None:
    from nlptl.cli import main

    out = Path(job["cache"]) / "run"
    shutil.rmtree(out, ignore_errors=True)
    flags = ["--model", job["model"], "--dataset", job["file"], "--freeze", "nothing", "--batch-size", str(BATCH_SIZE)]
    main(["run", "sentiment", *flags, "--max-length", str(MAX_LENGTH), "--output-dir", str(out)])


def start_stock(job: Job) -> Callable[[], Check]:
    """Return what starts a script with transformers' Trainer."""
    return lambda: _until_first_step(job, lambda: _run_script(job))


def _run_script(job: Job) -> None:
    import datasets
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    quiet()
    datasets.disable_progress_bars()
    cache = Path(job["cache"])
    data = datasets.load_dataset("csv", data_files=job["file"], cache_dir=str(cache / "datasets"))["train"]
    data = data.class_encode_column("label").train_test_split(0.1, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])

    def tokenize(batch: dict[str, Any]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH)

    data = data.map(tokenize, batched=True)
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=2)
    settings = TrainingArguments(
        str(cache / "out"), per_device_train_batch_size=BATCH_SIZE, use_cpu=True, report_to=[], disable_tqdm=True
    )
    Trainer(model, settings, train_dataset=data["train"], eval_dataset=data["test"], processing_class=tokenizer).train()


def _until_first_step(job: Job, command: Callable[[], None]) -> Check:
    """Run `command` until an optimizer has taken a step; the clock began when this process was started."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def leave(*_: Any) -> None:
        raise FirstStepError

    hook = register_optimizer_step_post_hook(leave)
    try:
        command()
    except FirstStepError:
        seconds = time.time() - job["started"]
    finally:
        hook.remove()
    return lambda: {"seconds": seconds}


def whole_ours(job: Job) -> Callable[[], Check]:
    """Return what runs `nlptl run sentiment` from its start to its end, the report included."""
    out = Path(job["cache"]) / "run"
    flags = ["--dataset", job["folder"], "--model", job["model"], "--output-dir", str(out)]
    command = [str(Path(sys.executable).with_name("nlptl")), "run", "sentiment", *flags]

    def accuracy() -> Check:
        scores = json.loads((out / "scores.json").read_text())
        return lambda: {"accuracy": scores["test"]["accuracy"]["value"]}

    return _whole(command, accuracy)


def whole_stock(job: Job) -> Callable[[], Check]:
    """Return what runs a script with transformers' Trainer from its start to its end."""
    code = "import json, sys; from tests.benchmarks.starts import whole_script; whole_script(json.loads(sys.argv[1]))"

    def accuracy() -> Check:
        found = json.loads((Path(job["cache"]) / "accuracy.json").read_text())
        return lambda: {"accuracy": found}

    return _whole([sys.executable, "-c", code, json.dumps(job)], accuracy)


def _whole(command: list[str], accuracy: Callable[[], Check]) -> Callable[[], Check]:
    def run() -> Check:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return accuracy()

    return run


def whole_script(job: Job) -> None:
    """Train a head over a frozen encoder for ten epochs, keep the best on validation, score test, save the model."""
    import datasets
    import numpy as np
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    quiet()
    datasets.disable_progress_bars()
    cache, names = Path(job["cache"]), ("train", "validation", "test")
    files = {name: f"{job['folder']}/{name}.csv" for name in names}
    data = datasets.load_dataset("csv", data_files=files, cache_dir=str(cache / "datasets"))
    data = data.class_encode_column("label")
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    data = data.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH), batched=True)
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=len(job["names"]))
    model.base_model.requires_grad_(False)
    settings = TrainingArguments(
        str(cache / "out"),
        num_train_epochs=10,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        learning_rate=3e-2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )

    def accuracy(predicted: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(predicted.predictions.argmax(-1) == predicted.label_ids))}

    trainer = Trainer(
        model,
        settings,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model(str(cache / "model"))
    (cache / "accuracy.json").write_text(json.dumps(trainer.evaluate(data["test"])["eval_accuracy"]))


def help_ours(job: Job) -> Callable[[], Check]:
    """Return what asks for help."""
    command = [str(Path(sys.executable).with_name("nlptl")), "--help"]
    subprocess.run(command, capture_output=True, check=True)

    def run() -> Check:
        subprocess.run(command, capture_output=True, check=True)
        return lambda: {}

    return run


SYSTEMS: dict[str, System] = {
    "ours_start_cold": System("start", start_ours),
    "trainer_start_cold": System("start", start_stock),
    "ours_start": System("start", start_ours),
    "trainer_start": System("start", start_stock),
    "ours_whole": System("run", whole_ours),
    "trainer_whole": System("run", whole_stock),
    "ours_help": System("start", help_ours),
}
