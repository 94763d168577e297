"""One of several processes of a recipe in which something goes wrong: `python peer_worker.py FAULT RECORD FLAGS...`.

FAULT is a kind, a rank and a step: "kill:1:5" kills the process with rank 1 when it has begun step 5; "none" is no
fault. The texts of each step, as token ids, go to the file RECORD-RANK.jsonl.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from nlptl import DataError, cli, train_classifier
from nlptl.config import ClassificationConfig
from nlptl.training.step import Stepper

RANK = os.environ["RANK"]


def fail(kind: str) -> None:
    """Let this process go wrong."""
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "refuse":
        raise DataError("Expected a file on this machine, found none. Copy it.")
    elif kind == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    elif kind in ("end", "late"):  # in a step, or in the evaluation after it
        os.kill(os.getpid(), signal.SIGTERM)
        return
    elif kind == "wait":  # to be killed
        Path(os.environ["FIFO"]).write_text("waiting")
        threading.Event().wait()
    raise AssertionError(kind)


def watch(faults: list[str], record: Path, first_step: int) -> None:
    """Record the texts of each step from `first_step` on, and let the faults happen that are this process's own."""
    texts: list[list[int]] = []
    step, is_training = first_step, False
    kinds = {int(at): kind for kind, rank, at in (fault.split(":") for fault in faults) if rank == RANK}

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # Word embeddings, while a model trains.
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == 80 and torch.is_grad_enabled():
            texts.extend([i for i in row if i] for row in inputs[0].tolist())
            if is_training and step in kinds:
                fail(kinds.pop(step))
        elif isinstance(module, torch.nn.Embedding) and kinds.get(step) == "late":
            fail(kinds.pop(step))

    def begin(*arguments: Any, **settings: Any) -> Any:
        nonlocal is_training
        texts.clear()  # of what is measured before the first step
        is_training = True
        return take(*arguments, **settings)

    def keep(*_: object) -> None:
        nonlocal step
        with Path(f"{record}-{RANK}.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "texts": texts}) + "\n")
        step += 1

    take, Stepper.take = Stepper.take, begin
    register_module_forward_pre_hook(look)
    register_optimizer_step_post_hook(keep)


def main(argv: list[str]) -> None:
    """Run the recipe for one label per text, with what goes wrong."""
    faults, record, *flags = argv
    torch.set_num_threads(1)
    checkpoints = Path(flags[flags.index("--output-dir") + 1]) / "checkpoints"
    saved = [int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*")]
    watch(faults.split(",") if faults != "none" else [], Path(record), max(saved, default=0))
    cli.run(train_classifier, ClassificationConfig, flags, doc="")


if __name__ == "__main__":
    main(sys.argv[1:])
