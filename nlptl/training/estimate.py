"""What a training will take, said before its first step: memory, time, space on the disk."""

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator

from nlptl.config import TrainingConfig
from nlptl.errors import ResourceError
from nlptl.model.classifier import Classifier
from nlptl.training.cache import FeatureCache
from nlptl.training.inputs import Inputs
from nlptl.training.plan import Plan
from nlptl.training.probe import memory_in_use
from nlptl.training.tally import Tally

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Estimate:
    """What a training takes at most: `memory` of the device in bytes, by what it is for, in each of the processes.

    `needed` of them are not in use yet, and `free` is what the device has left; `disk` is for checkpoints and model.
    """

    memory: dict[str, int]
    needed: int
    free: int
    disk: int
    seconds: float
    num_steps: int
    max_tokens: int
    device: str
    num_processes: int

    def describe(self) -> str:
        """Return the estimate in one line, the parts of memory in megabytes."""
        parts = [f"{name} {size / 1e6:,.0f}" for name, size in self.memory.items() if size >= 0.5e6]
        of_each = f" in each of {self.num_processes} processes" if self.num_processes > 1 else ""
        steps = f" for {self.num_steps:,} steps" if self.num_steps else ""
        return (
            f"estimate: {_megabytes(sum(self.memory.values()))} of memory{of_each} ({', '.join(parts)}) with at most "
            f"{self.max_tokens:,} tokens at once, {_duration(self.seconds)}{steps} on {self.device}, "
            f"{_megabytes(self.disk)} of disk"
        )

    def log(self) -> None:
        """Say it in one line, and in a second one what helps where memory may not suffice: estimates err."""
        logger.info("%s", self.describe())
        if self.needed > self.free:
            logger.warning(
                "%s of memory are free, and %s more may be needed. Where it runs out, micro-batches get smaller by "
                "themselves; --micro-batch-tokens, --max-length, --freeze and --lora-rank make all need less",
                _megabytes(self.free),
                _megabytes(self.needed),
            )


def estimate_training(
    model: Classifier,
    config: TrainingConfig,
    plan: Plan,
    splits: list[Inputs],
    accelerator: Accelerator,
    *,
    seed: int,
    max_tokens: int,
    cache: FeatureCache | None,
    encoder_sha256: str,
    first_step: int = 0,
) -> Estimate:
    """Estimate what a training takes, having run its longest micro-batch, or a batch of what is still to be encoded.

    Weights, gradients and what is random stay as they are, and nothing is written. No process waits for another.

    Args:
        model: What trains, set for the last stage.
        config: How.
        plan: The stages.
        splits: The training split, and the validation split if there is one.
        accelerator: The device and the other processes.
        seed: Of the order of examples.
        max_tokens: Of a micro-batch.
        cache: Where features of earlier runs are. None: nothing is computed ahead.
        encoder_sha256: What `inputs.encoder_sha256` returns for the model.
        first_step: Steps that a run which is resumed has behind it.

    Raises:
        ResourceError: If there is not memory enough for the longest text.
    """
    device = accelerator.device
    tally = Tally(model, config, plan.stages, splits, accelerator, cache, first_step=first_step)
    tally.measure(seed=seed, max_tokens=max_tokens, encoder_sha256=encoder_sha256)
    memory, seconds = tally.of_all_stages()
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    return Estimate(
        memory=memory,
        needed=max(0, sum(memory.values()) - memory_in_use(device)) * num_local,
        free=_free_memory(device),
        disk=tally.disk(),
        seconds=seconds,
        num_steps=sum(map(tally.num_steps, plan.stages)),
        max_tokens=max_tokens,
        device=device.type,
        num_processes=accelerator.num_processes,
    )


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to begin a training whose checkpoints and model take more space than the disk of `folder` has.

    What is in its folders `checkpoints` and `model` counts as free, since it is replaced.

    Raises:
        ResourceError: If there is less.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    files = (path for name in ("checkpoints", "model") for path in (folder / name).rglob("*"))
    free = shutil.disk_usage(existing).free + sum(path.stat().st_size for path in files if path.is_file())
    if free < needed:
        raise ResourceError(
            f"Expected {_megabytes(needed)} of disk for the checkpoints and the model in {folder}, found "
            f"{_megabytes(free)}. Free some, freeze more (--freeze, --lora-rank), or pass an --output-dir on another "
            "disk."
        )


def _free_memory(device: torch.device) -> int:
    """Return the bytes that may still be taken: of the device, or on a CPU of the machine or the container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError, KeyError):  # no control groups of version 2, or no limit
        limit, current = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - current + int(stat["inactive_file"]))
    return free


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
