"""What a user waits for before anything is trained: from the start of a process to the first optimizer step.

Both sides read the same file of reviews, tokenize it, or find that done by an earlier run, and train all of the
encoder.
"""

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
    "ours_help": System("start", help_ours),
}
