"""One optimizer step: the gradient of a global batch, in any split, and the update."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nlptl.config import TrainingConfig
from nlptl.data.batches import micro_batches
from nlptl.data.order import stream_key
from nlptl.errors import NonFiniteError, ResourceError
from nlptl.model.classifier import Classifier
from nlptl.model.inference import in_halves, is_out_of_memory
from nlptl.model.seeding import one_at_a_time, seeded
from nlptl.tasks.task import Objective
from nlptl.training.inputs import Inputs
from nlptl.training.objective import share_of_mean
from nlptl.training.regularizers import symmetric_divergence

logger = logging.getLogger(__name__)


class _OutOfMemoryError(Exception):
    """Memory has run out on one of the processes; none of them has sent a gradient."""


@dataclass(frozen=True)
class Step:
    """What became of an optimizer step: the loss of its global batch and the norm of its gradient.

    `signals` says of each of `interruption.SIGNALS` whether a process has got it; of a single process, until now.
    """

    loss: float
    norm: float
    signals: list[int]


@dataclass
class Stepper:
    """What every step of a stage needs.

    `network` is `model` as Accelerate has prepared it; `max_tokens` is halved when memory runs out; `takes_features`
    says that the head alone trains, and reads what never changes; `objective` is that of the task.
    """

    model: Classifier
    network: nn.Module
    optimizer: Any
    accelerator: Accelerator
    config: TrainingConfig
    seed: int
    max_tokens: int
    takes_features: bool
    objective: Objective

    def take(self, inputs: Inputs, indices: np.ndarray, *, step: int, signals: list[int]) -> Step:
        """Take one optimizer step on the global batch `indices`.

        When memory runs out, on any process, micro-batches are halved on all of them and the step is begun anew.

        Args:
            inputs: The training split.
            indices: Its examples, those of all processes.
            step: The number of the step.
            signals: Of each of `interruption.SIGNALS`, whether this process has got it.

        Raises:
            NonFiniteError: If the loss or the gradient is NaN or infinite; the step is not taken.
            ResourceError: If there is not memory enough for a single text.
        """
        accelerator, config = self.accelerator, self.config
        while True:
            try:
                loss, all_signals = self._backward(inputs, indices, step, signals)
                break
            except _OutOfMemoryError as error:
                found = str(error)
            # Here the error is gone, and with its frames the tensors that they held.
            self.optimizer.zero_grad()
            if isinstance(self.network, DistributedDataParallel):
                # It waits for a backward pass that has not come, and would take the next one for it.
                self.network._update_process_group(self.network.process_group)
            self._halve_micro_batches(int(inputs.tokens.lengths[indices].max()), found=found)
        limit = config.max_grad_norm if config.max_grad_norm > 0 else float("inf")
        norm = float(accelerator.clip_grad_norm_(self._trained(), limit))
        # With fp16 the loss scale is lowered and the step left out when a gradient overflows: that is no divergence
        # until there is no scale left to lower.
        can_overflow = accelerator.scaler is not None and accelerator.scaler.get_scale() >= 1
        if not np.isfinite(loss) or not (np.isfinite(norm) or can_overflow):
            examples = inputs.examples
            raise NonFiniteError(
                f"Expected a finite loss and gradient, found loss {loss} and gradient norm {norm} in step {step + 1}, "
                f"on rows {[examples.rows[i] for i in indices[:5]]} and {max(0, len(indices) - 5)} more of "
                f"{examples.source}. The step was not taken. Lower --learning-rate, or use --mixed-precision no."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Step(loss, norm, all_signals)

    def _backward(self, inputs: Inputs, indices: np.ndarray, step: int, signals: list[int]) -> tuple[float, list[int]]:
        """Compute the gradient of the mean loss of the global batch; return the loss, and the signals of all processes.

        The noise of dropout is drawn for each step, micro-batch and process.
        """
        accelerator = self.accelerator
        process, num_processes = accelerator.process_index, accelerator.num_processes
        max_tokens = self.max_tokens // self._num_passes
        share = micro_batches(
            indices, inputs.tokens.lengths, max_tokens=max_tokens, process=process, num_processes=num_processes
        )
        # A process without a share takes part with a loss of zero, since the others wait for its gradient.
        parts = share or [indices[:1]]
        micro_batch = partial(self._batch, inputs)
        if self.takes_features:
            # The head takes all at once, so that its noise is the same whether features are computed here or before.
            micro_batch = partial(self._features, inputs, parts)
            parts = [np.concatenate(parts)]
        weights = self.objective.weights
        global_weight = len(indices) if weights is None else float(weights[indices].sum())
        total, failure = torch.zeros((), device=accelerator.device), ""
        for i, rows in enumerate(parts):
            is_last = i == len(parts) - 1
            try:
                with (
                    seeded(stream_key("noise", self.seed, step, i, process), accelerator.device),
                    nullcontext() if is_last else accelerator.no_sync(self.network),
                ):
                    losses = self._losses(micro_batch(rows), inputs, rows)
                    loss = share_of_mean(losses, global_weight=global_weight, num_processes=num_processes)
                    loss = loss if share else loss * 0
                    total = total + loss.detach()
                    if not is_last:
                        accelerator.backward(loss)
            except (RuntimeError, MemoryError) as error:
                failure = _out_of_memory(error)
                break
        # Before the gradients are exchanged, in the backward pass of the last micro-batch, all have to know whether all
        # have come so far: one that waits for a gradient that does not come would wait forever.
        mean, all_signals = self._tell_all(total, failure, signals)
        try:
            with one_at_a_time:  # layers that are computed once more draw their noise again
                accelerator.backward(loss)
        except (RuntimeError, MemoryError) as error:
            failure = _out_of_memory(error)
        if failure:
            if num_processes > 1:
                raise _cannot_exchange(num_processes, failure)
            raise _OutOfMemoryError(failure)
        return float(mean), all_signals

    def _tell_all(self, loss: torch.Tensor, failure: str, signals: list[int]) -> tuple[torch.Tensor | float, list[int]]:
        """Return the mean of the losses of all processes, and how many of them have got each signal.

        Raises:
            _OutOfMemoryError: If memory has run out on a process.
        """
        mean: torch.Tensor | float = loss
        all_signals, num_failed = signals, int(bool(failure))
        if self.accelerator.num_processes > 1:
            facts = torch.tensor([*signals, num_failed], dtype=torch.float64, device=loss.device)
            total = self.accelerator.reduce(torch.cat([loss.double().view(1), facts]), "sum")
            mean, *counts = total.tolist()
            mean /= self.accelerator.num_processes
            *all_signals, num_failed = map(int, counts)
        if num_failed:
            raise _OutOfMemoryError(failure or "too little on another process")
        return mean, all_signals

    def _halve_micro_batches(self, longest: int, *, found: str) -> None:
        clear_device_cache(garbage_collection=True)
        if self.max_tokens <= longest:
            raise ResourceError(
                f"Expected memory for one text of {longest} tokens at a time, found: {found}. Lower --max-length, "
                "freeze more, or take a smaller model; --resume goes on from the last checkpoint."
            )
        self.max_tokens //= 2
        logger.warning(
            "out of memory: from now on at most %d tokens at once; the step is repeated, with the same gradient (%s)",
            self.max_tokens,
            found,
        )

    def _losses(self, batch: dict[str, Any], inputs: Inputs, rows: np.ndarray) -> torch.Tensor:
        """Return the loss of each example [rows]; with R-Drop, that of two passes and their divergence."""
        num_passes = self._num_passes
        targets = self.model.task.batch_targets(inputs.targets, inputs.tokens, rows).to(self.accelerator.device)
        if num_passes > 1:
            batch = {k: torch.cat([v] * num_passes) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        logits = self.network(**batch)
        losses = self.objective.losses(logits, torch.cat([targets] * num_passes))
        if num_passes == 1:
            return losses
        first, second = logits.chunk(2)
        divergence = symmetric_divergence(first, second)
        if self.objective.weights is not None:
            divergence = divergence * torch.from_numpy(self.objective.weights[rows]).to(logits)
        return losses.view(2, -1).mean(dim=0) + self.config.r_drop * divergence

    def _batch(self, inputs: Inputs, rows: np.ndarray) -> dict[str, Any]:
        return inputs.batch(rows, pad_id=self.model.pad_id, device=self.accelerator.device)

    def _features(self, inputs: Inputs, parts: list[np.ndarray], rows: np.ndarray) -> dict[str, Any]:
        """Return what the head reads of `rows`, those of all `parts`, as it was computed before or is now."""
        if inputs.features is not None:
            return {"features": inputs.features[torch.from_numpy(rows).to(inputs.features.device)]}

        def compute(rows: np.ndarray) -> torch.Tensor:
            return self.model.features(**self._batch(inputs, rows))

        with torch.no_grad(), self.accelerator.autocast():
            return {"features": torch.cat([found for part in parts for found in in_halves(compute, part)])}

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def _num_passes(self) -> int:
        return 2 if self.config.r_drop > 0 else 1


def _out_of_memory(error: Exception) -> str:
    """Return what `error` says, if it says that memory has run out; else raise it."""
    if not is_out_of_memory(error):
        raise error
    return str(error).partition("\n")[0] or "too little memory"


def _cannot_exchange(num_processes: int, failure: str) -> ResourceError:
    return ResourceError(
        f"Expected memory for the gradients that {num_processes} processes exchange, found: {failure}. "
        "Lower --micro-batch-tokens or --max-length, then go on with --resume."
    )
