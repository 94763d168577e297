"""Estimates of the memory, disk space and time that a training takes, before its first step."""

import logging
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate import Accelerator

from nlptl.config import TrainingConfig
from nlptl.data.batches import micro_batches
from nlptl.errors import ResourceError, one_line
from nlptl.model.classifier import Classifier
from nlptl.model.freezing import is_adapter
from nlptl.model.inference import evaluating, in_halves, is_out_of_memory, tokens_at_once
from nlptl.model.seeding import seeded
from nlptl.training.boundary import MEMORY_SHARE, cut_depth
from nlptl.training.inputs import Inputs

logger = logging.getLogger(__name__)

HEAD_STEP_SECONDS = 1e-3
"""Rough time of an optimizer step that trains the head alone."""
TOKENIZER_BYTES = 5_000_000
"""Rough size of the files beside the weights in a model folder."""


@dataclass(frozen=True)
class Estimate:
    """About what a training takes: `memory` in bytes by purpose, in each process, and `disk` in bytes.

    `seconds` is None unless it was measured.
    """

    memory: dict[str, int]
    disk: int
    num_steps: int
    max_tokens: int
    device: str
    num_processes: int
    seconds: float | None = None

    def describe(self) -> str:
        """Return the estimate in one line, the parts of memory in megabytes."""
        parts = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in self.memory.items() if size >= 0.5e6)
        of_each = f" in each of {self.num_processes} processes" if self.num_processes > 1 else ""
        steps = f"{self.num_steps:,} steps in micro-batches of up to {self.max_tokens:,} tokens " * bool(self.num_steps)
        seconds = "" if self.seconds is None else f", about {duration(self.seconds)}"
        return (
            f"estimate: about {_megabytes(sum(self.memory.values()))} of memory{of_each} ({parts}), "
            f"{_megabytes(self.disk)} of disk; {steps}on {self.device}{seconds}"
        )


def estimate_training(
    model: Classifier,
    config: TrainingConfig,
    splits: list[Inputs],
    accelerator: Accelerator,
    *,
    max_tokens: int,
    first_step: int = 0,
) -> Estimate:
    """Estimate memory and disk from the numbers of parameters and tokens; nothing is run.

    Args:
        model: The model, set for the last stage, which trains most.
        config: The settings of the training.
        splits: The training split, and the validation split if there is one.
        accelerator: The device and the other processes.
        max_tokens: Largest number of tokens in a micro-batch.
        first_step: Steps that a resumed run has already taken.
    """
    steps_per_epoch = -(-len(splits[0]) // config.batch_size)
    num_steps = 0 if model.head_is_fitted else max(0, config.num_epochs * steps_per_epoch - first_step)
    on_cpu, parameters = accelerator.device.type == "cpu", list(model.network.parameters())
    weights, trained = (sum(p.nbytes for p in each) for each in (parameters, _trained(model)))
    if model.head_is_fitted:
        trained = 0
    optimizer = trained * (1 if config.optimizer == "sgd" else 2)
    checkpoint = trained + optimizer
    memory = {
        "weights": weights,
        "gradients": trained * (1 if accelerator.num_processes == 1 else 2),  # DistributedDataParallel sends copies
        "optimizer": optimizer,
        "best weights": trained if on_cpu and len(splits) > 1 else 0,
        "features": _features(model, config, splits, accelerator),
        "activations": _activations(model, config, accelerator, max_tokens=max_tokens),
        "checkpoint": checkpoint if on_cpu else 0,
        "Python and libraries": max(0, psutil.Process().memory_info().rss - weights) if on_cpu else 0,
    }
    every = min(config.eval_steps or steps_per_epoch, config.save_steps or steps_per_epoch)
    num_kept = min(-(-num_steps // every), config.keep_last + 1)  # the best one too
    model_files: int = sum(p.nbytes for name, p in model.network.named_parameters() if not is_adapter(name))
    adapter_files = trained if model.has_adapters else 0
    # One more checkpoint than is kept, since a new one is written before an old one is removed.
    disk = (num_kept + bool(num_kept)) * checkpoint + model_files + adapter_files + TOKENIZER_BYTES
    return Estimate(memory, disk, num_steps, max_tokens, accelerator.device.type, accelerator.num_processes)


def with_seconds(
    estimate: Estimate, model: Classifier, config: TrainingConfig, splits: list[Inputs], accelerator: Accelerator
) -> Estimate:
    """Return `estimate` with about the seconds of the training, from one micro-batch that is timed.

    Leave out splits whose features are in the cache. Lower layers that are run only once count as if they were run in
    every epoch. Weights, gradients, buffers and random states stay as they are; the mode of the model does not.

    Raises:
        ResourceError: If there is not enough memory for a single text.
    """
    num_tokens = sum(len(split.tokens.ids) for split in splits)
    seconds = estimate.num_steps * HEAD_STEP_SECONDS
    if num_tokens and not (model.features_are_constant and (config.cache or model.head_is_fitted)):
        num_tokens = round(num_tokens * estimate.num_steps * config.batch_size / len(splits[0]))
    if num_tokens:
        per_token = _seconds_per_token(model, splits[0], accelerator, max_tokens=estimate.max_tokens)
        seconds += num_tokens * per_token / accelerator.num_processes
    return replace(estimate, seconds=seconds)


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to begin a training whose checkpoints and model take more space than the disk of `folder` has.

    The contents of its folders `checkpoints` and `model` count as free, since they are replaced.

    Raises:
        ResourceError: If there is less.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    files = (path for name in ("checkpoints", "model") for path in (folder / name).rglob("*"))
    free = shutil.disk_usage(existing).free + sum(path.stat().st_size for path in files if path.is_file())
    if free < needed:
        raise ResourceError(
            f"The checkpoints and the model in {folder} need about {_megabytes(needed)} of disk, but only "
            f"{_megabytes(free)} are free. Free some space, train fewer parameters (--freeze, --lora-rank), or pass an "
            "--output-dir on another disk."
        )


def duration(seconds: float) -> str:
    """Return a time in words, such as '3 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _trained(model: Classifier) -> list[torch.nn.Parameter]:
    return [p for p in model.network.parameters() if p.requires_grad]


def _activations(model: Classifier, config: TrainingConfig, accelerator: Accelerator, *, max_tokens: int) -> int:
    """Return about the bytes that a micro-batch keeps for its backward pass, or that a batch takes without one.

    A layer keeps 8 hidden and 2 intermediate vectors of each token, and two masks of dropout (Korthikanti et al. 2022,
    arXiv:2205.05198, section 4.1, without the attention matrix, which fused kernels do not keep).
    """
    encoder = model.network.base_model.config
    width, itemsize = int(encoder.hidden_size), 4 if accelerator.mixed_precision == "no" else 2
    of_layer = (8 * width + 2 * getattr(encoder, "intermediate_size", 4 * width)) * itemsize + 2 * width
    without_gradient = tokens_at_once(accelerator.device) * of_layer
    if model.features_are_constant:
        return without_gradient
    num_layers = model.parts.num_layers - model.num_frozen_layers
    kept = num_layers * width * itemsize + of_layer if config.gradient_checkpointing else num_layers * of_layer
    return max(max_tokens * kept, without_gradient)


def _features(model: Classifier, config: TrainingConfig, splits: list[Inputs], accelerator: Accelerator) -> int:
    """Return the bytes of the features or hidden states that are computed once, unless they are mapped from a file."""
    width = int(model.network.base_model.config.hidden_size)
    num_vectors, itemsize = 0, 4
    if model.features_are_constant:
        num_vectors = sum(map(len, splits)) * (model.head.layers if isinstance(model.head.layers, int) else 1)
    elif config.cache and cut_depth(model, num_passes=config.num_epochs):
        num_vectors = sum(len(split.tokens.ids) for split in splits)
        itemsize = 2 if config.cache_dtype == "float16" else 4
    size = num_vectors * width * itemsize
    return size if size <= MEMORY_SHARE * psutil.virtual_memory().available else 0


def _seconds_per_token(model: Classifier, inputs: Inputs, accelerator: Accelerator, *, max_tokens: int) -> float:
    device, lengths = accelerator.device, inputs.tokens.lengths
    parts = micro_batches(np.arange(min(len(inputs), 1000)), lengths, max_tokens=max_tokens)
    rows = parts[len(parts) // 2]  # texts of medium length

    def run(rows: np.ndarray) -> float:
        batch = inputs.batch(rows, pad_id=model.pad_id, device=device)
        started = time.perf_counter()
        with accelerator.autocast():
            if model.features_are_constant:
                model.features(**batch)
            else:  # model.forward, since hooks on the model may count its steps
                loss = model.forward(**batch).float().logsumexp(dim=-1).sum()
                torch.autograd.grad(loss, _trained(model), allow_unused=True)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - started

    model.train()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    no_gradient = evaluating(model) if model.features_are_constant else nullcontext()
    try:
        with seeded(0, device), no_gradient:
            in_halves(run, rows[:1])  # warms up memory and threads
            return sum(in_halves(run, rows)) / int(lengths[rows].sum())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"Out of memory with a single text of {int(lengths[rows].max())} tokens: {one_line(error)}. Lower "
            "--max-length, freeze more, pass --lora-rank 8, or take a smaller model."
        ) from error
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
