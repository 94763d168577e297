"""Runs the longest micro-batch of a training before its first step, and measures what it takes."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch.autograd.graph import saved_tensors_hooks

from nlptl.data.batches import collate, micro_batches
from nlptl.data.order import order
from nlptl.errors import ResourceError
from nlptl.model.boundary import hidden_states_after
from nlptl.model.classifier import Classifier
from nlptl.model.inference import evaluating, in_halves, is_out_of_memory, length_batches
from nlptl.model.quick import quick_layers
from nlptl.model.seeding import seeded
from nlptl.training.inputs import Inputs

logger = logging.getLogger(__name__)

T = TypeVar("T")

STEPS_SAMPLED = 50
MUCH_LARGER = 1.1
"""How many times more tokens another micro-batch has that is worth a run of its own."""


@dataclass(frozen=True)
class Work:
    """What the steps of an epoch give a process to do: two of its micro-batches, and tokens a step with their padding.

    `longest` has the longest text, `largest` the most tokens.
    """

    longest: np.ndarray
    largest: np.ndarray
    tokens_per_step: float


@dataclass(frozen=True)
class Probe:
    """What was measured: bytes that wait for the backward pass, bytes of all else in use, and seconds a token.

    `below` is the time of the lowest layers, where they are run once; `forward` and `backward` that of what is run in
    every step.
    """

    activations: int
    in_use: int
    below: float
    forward: float
    backward: float


def plan_work(inputs: Inputs, batch_size: int, *, seed: int, max_tokens: int, num_processes: int) -> Work:
    """Return the work of the first epoch, from a sample of its steps and the one with the longest text."""
    lengths, permutation = inputs.tokens.lengths, order(len(inputs), seed, 0)
    step_of_longest = int(np.flatnonzero(permutation == lengths.argmax())[0]) // batch_size
    sample = np.unique(np.linspace(0, (len(inputs) - 1) // batch_size, STEPS_SAMPLED).astype(int))
    batches = [permutation[i * batch_size : (i + 1) * batch_size] for i in (step_of_longest, *sample)]
    shares = [micro_batches(b, lengths, max_tokens=max_tokens, num_processes=num_processes) for b in batches]

    size = partial(_size, inputs)
    largest = max((rows for share in shares for rows in share), key=size)
    return Work(shares[0][0], largest, float(np.mean([sum(map(size, share)) for share in shares[1:]])))


def _size(inputs: Inputs, rows: np.ndarray) -> int:
    """Return the tokens of a micro-batch, padding included."""
    return len(rows) * int(inputs.tokens.lengths[rows].max())


def run_probe(
    model: Classifier,
    inputs: Inputs,
    work: Work,
    accelerator: Accelerator,
    *,
    depth: int,
    num_passes: int,
) -> Probe:
    """Run a micro-batch or two forward and backward, and leave no trace in the model, its gradients, or what is random.

    Where memory runs out, fewer texts are run: a step does the same. The processes do not wait for each other.

    Args:
        model: What trains.
        inputs: The training split.
        work: Which micro-batches.
        accelerator: The device and the precision.
        depth: How many of the lowest layers are run once and not in every step.
        num_passes: Passes of a text through the model in one micro-batch.

    Raises:
        ResourceError: If there is not memory enough for the longest text.
    """

    def run(rows: np.ndarray) -> Probe:
        return _run(model, inputs, rows, accelerator, depth=depth, num_passes=num_passes)

    with _without_trace(model, accelerator.device), quick_layers(model):
        _run_what_fits(run, work.longest[:1], inputs)  # warms up memory and threads
        first = second = _run_what_fits(run, work.longest, inputs)
        growth = max(1.0, _size(inputs, work.largest) / _size(inputs, work.longest))
        if growth > MUCH_LARGER:
            second, growth = _run_what_fits(run, work.largest, inputs), 1.0
    activations = max(round(first.activations * growth), second.activations)
    return Probe(activations, first.in_use, second.below, second.forward, second.backward)


def time_encoding(model: Classifier, inputs: Inputs, accelerator: Accelerator) -> float:
    """Return the seconds that a frozen encoder takes for a token, from one batch of the longest texts."""

    def encode(rows: np.ndarray) -> tuple[float, int]:
        batch = collate(inputs.tokens, rows, pad_id=model.pad_id, device=accelerator.device)
        seconds, _ = _timed(lambda: model.features(**batch), accelerator.device)
        return seconds, batch["input_ids"].numel()

    rows = length_batches(inputs.tokens.lengths, device=accelerator.device)[0]
    with evaluating(model), quick_layers(model), accelerator.autocast():
        for part in (rows[:1], rows):  # the first one warms up memory and threads
            seconds, num_tokens = np.sum(in_halves(encode, part), axis=0)
    return float(seconds / num_tokens)


def memory_in_use(device: torch.device) -> int:
    """Return the bytes in use on an accelerator, or on a CPU by this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def _run_what_fits(run: Callable[[np.ndarray], Probe], rows: np.ndarray, inputs: Inputs) -> Probe:
    while True:
        try:
            return run(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            found = str(error).partition("\n")[0] or "too little memory"
        # Here the error is gone, and with its frames the tensors that they held.
        clear_device_cache(garbage_collection=True)
        length = int(inputs.tokens.lengths[rows].max())
        if len(rows) == 1:
            raise ResourceError(
                f"Expected memory for one text of {length} tokens at a time, found: {found}. Lower --max-length, "
                "freeze more, pass --lora-rank 8, or take a smaller model."
            )
        logger.warning("out of memory with %d texts of up to %d tokens: trying half (%s)", len(rows), length, found)
        rows = rows[: len(rows) // 2]


def _run(
    model: Classifier, inputs: Inputs, rows: np.ndarray, accelerator: Accelerator, *, depth: int, num_passes: int
) -> Probe:
    device = accelerator.device
    ids = collate(inputs.tokens, rows, pad_id=model.pad_id, device=device)
    num_tokens, below = ids["input_ids"].numel(), 0.0
    batch: dict[str, Any] = {name: torch.cat([tensor] * num_passes) for name, tensor in ids.items()}
    if depth:
        with evaluating(model), quick_layers(model), accelerator.autocast():
            below, states = _timed(
                lambda: hidden_states_after(model.network.base_model, model.parts, depth, **ids), device
            )
        batch |= {"hidden": torch.cat([states.float()] * num_passes), "depth": depth}
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    waiting: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            waiting[storage.data_ptr()] = storage.nbytes()
        return tensor

    def forward() -> torch.Tensor:
        with saved_tensors_hooks(count, lambda tensor: tensor), accelerator.autocast():
            # Not model(...): what is hooked to the model counts its steps.
            return model.forward(**batch).float().logsumexp(dim=-1).sum()

    forward_seconds, loss = _timed(forward, device)
    in_use = memory_in_use(device) - sum(waiting.values())
    backward_seconds, _ = _timed(lambda: torch.autograd.grad(loss, trained, allow_unused=True), device)
    return Probe(
        sum(waiting.values()), in_use, below / num_tokens, forward_seconds / num_tokens, backward_seconds / num_tokens
    )


def _timed(action: Callable[[], T], device: torch.device) -> tuple[float, T]:
    start = time.perf_counter()
    result = action()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start, result


@contextmanager
def _without_trace(model: Classifier, device: torch.device) -> Iterator[None]:
    """Put `model` in train mode, and restore its mode, its buffers, and the state of all random numbers afterwards."""
    was_training = model.training
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        with seeded(0, device):
            yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
        model.train(was_training)
