"""Trains a run that is killed at random moments: `python kill_worker.py MODEL DATA OUTPUT SEED KILLS`.

Leaves the undisturbed run in OUTPUT/whole and each that was killed in OUTPUT/0, OUTPUT/1, ...; prints how many kills
each of them has had. Every attempt is a fork, so that torch is imported once.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import transformers.models.bert.modeling_bert  # noqa: F401

from nlptl import Classifier, Run, Trainer, TrainingConfig, load_splits

SETTINGS = {"num_epochs": 3, "batch_size": 12, "learning_rate": 1e-3, "eval_steps": 3, "save_steps": 2}


def train(model: str, data: str, output: Path) -> None:
    """Train with dropout and gradual unfreezing, or go on with it."""
    config = TrainingConfig(**SETTINGS, unfreeze_every_epochs=1, logging_steps=1, early_stopping=50)
    run = Run.open(output, config, resume=True)
    splits = load_splits(data, seed=0)
    run.record_splits(splits)
    classifier = Classifier.from_pretrained(model, labels=splits.labels)
    trainer = Trainer(classifier, config, output_dir=run, seed=0)
    trainer.fit(splits["train"], validation=splits["validation"])
    trainer.evaluate(splits["test"])


def attempt(model: str, data: str, output: Path, *, seconds: float | None) -> bool:
    """Train in a fork, killed after `seconds`; return whether it was done by then."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(model, data, output)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)  # the moment of the kill, not a wait for something
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if status != 0:
        raise SystemExit("a training that was resumed has failed, see above")
    return True


def main() -> None:
    """Kill runs until there were as many kills as wanted."""
    model, data, folder, seed, wanted = sys.argv[1:]
    output = Path(folder)
    start = time.monotonic()
    attempt(model, data, output / "whole", seconds=None)
    longest = time.monotonic() - start
    draw = random.Random(int(seed))
    kills: list[int] = []
    while sum(kills) < int(wanted):
        kills.append(0)
        while not attempt(model, data, output / str(len(kills) - 1), seconds=draw.uniform(0, longest)):
            kills[-1] += 1
    sys.stdout.write(json.dumps(kills) + "\n")


if __name__ == "__main__":
    main()
