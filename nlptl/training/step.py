"""One optimizer step: the gradient of a global batch, the same in any split, and the update."""

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
from nlptl.training.inputs import Inputs

logger = logging.getLogger(__name__)


class _OutOfMemoryError(Exception):
    """A process is out of memory; none of them has sent a gradient."""


@dataclass(frozen=True)
class Step:
    """The loss of a global batch, the norm of its gradient, and how many processes have received each signal."""

    loss: float
    norm: float
    signals: list[int]


@dataclass
class Stepper:
    """Takes the steps of a stage.

    `network` and `optimizer` are wrapped by Accelerate where it has something to add; `inputs` is the training split;
    `max_tokens`, the size of a micro-batch, is halved when memory runs out.
    """

    model: Classifier
    network: nn.Module
    optimizer: Any
    accelerator: Accelerator
    config: TrainingConfig
    inputs: Inputs
    seed: int
    max_tokens: int

    def __post_init__(self) -> None:
        model, inputs = self.model, self.inputs
        self.takes_features = model.features_are_constant
        self.objective = model.task.objective(
            self.config, inputs.targets, inputs.tokens, binary_loss=model.head.binary_loss
        )

    def take(self, indices: np.ndarray, *, step: int, signals: list[int]) -> Step:
        """Take one optimizer step.

        When any process runs out of memory, all of them halve their micro-batches and start the step again.

        Args:
            indices: The global batch: the examples of all processes.
            step: The number of the step.
            signals: For each of `interruption.SIGNALS`, whether this process has received it.

        Raises:
            NonFiniteError: If the loss or the gradient is NaN or infinite; the step is not taken.
            ResourceError: If there is not enough memory for a single text.
        """
        accelerator, config = self.accelerator, self.config
        while True:
            try:
                loss, all_signals = self._backward(indices, step, signals)
                break
            except _OutOfMemoryError as error:
                found = str(error)
            # Out of the except block, so that the frames of the error release their tensors.
            self.optimizer.zero_grad()
            if isinstance(self.network, DistributedDataParallel):
                # It still waits for the backward pass that failed, and would mistake the next one for it.
                self.network._update_process_group(self.network.process_group)
            self._halve_micro_batches(int(self.inputs.tokens.lengths[indices].max()), found=found)
        limit = config.max_grad_norm if config.max_grad_norm > 0 else float("inf")
        norm = float(accelerator.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], limit))
        # When a gradient overflows in fp16, the step is skipped with a lower loss scale: no divergence, as long as the
        # scale can still be lowered.
        can_overflow = accelerator.scaler is not None and accelerator.scaler.get_scale() >= 1
        if not np.isfinite(loss) or not (np.isfinite(norm) or can_overflow):
            examples = self.inputs.examples
            raise NonFiniteError(
                f"Training diverged: loss {loss} and gradient norm {norm} in step {step + 1}, on rows "
                f"{[examples.rows[i] for i in indices[:5]]} and {max(0, len(indices) - 5)} more of {examples.source}. "
                "The step was not taken. Lower --learning-rate, or pass --mixed-precision no."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Step(loss, norm, all_signals)

    def _backward(self, indices: np.ndarray, step: int, signals: list[int]) -> tuple[float, list[int]]:
        """Compute the gradient of the mean loss of the global batch; return the loss, and the signals of all processes.

        The noise of dropout depends on the step, the micro-batch and the process.
        """
        accelerator, inputs = self.accelerator, self.inputs
        process, num_processes = accelerator.process_index, accelerator.num_processes
        share = micro_batches(
            indices, inputs.tokens.lengths, max_tokens=self.max_tokens, process=process, num_processes=num_processes
        )
        # A process without a share takes part with a loss of zero, since the others wait for its gradient.
        parts = share or [indices[:1]]
        micro_batch = self._batch
        if self.takes_features:
            # The head reads all at once, so that its noise is the same whether features were computed before or not.
            micro_batch = partial(self._features, parts)
            parts = [np.concatenate(parts)]
        weights = self.objective.weights
        global_weight = len(indices) if weights is None else float(weights[indices].sum())
        # Micro-batches add up to sum(losses) / global_weight, whatever the split: DistributedDataParallel averages over
        # processes, hence the factor. A batch without a word that is read weighs nothing, and its loss is zero.
        factor = num_processes / global_weight if global_weight and share else 0.0
        total, failure = torch.zeros((), device=accelerator.device), ""
        for i, rows in enumerate(parts):
            is_last = i == len(parts) - 1
            try:
                with (
                    seeded(stream_key("noise", self.seed, step, i, process), accelerator.device),
                    nullcontext() if is_last else accelerator.no_sync(self.network),
                ):
                    loss = self._losses(micro_batch(rows), rows).sum() * factor
                    total = total + loss.detach()
                    if not is_last:
                        accelerator.backward(loss)
            except (RuntimeError, MemoryError) as error:
                failure = _out_of_memory(error)
                break
        # The backward pass of the last micro-batch exchanges gradients. Before it, all processes must know whether all
        # have come this far: one that waits for a missing gradient would wait forever.
        mean, all_signals = self._tell_all(total, failure, signals)
        try:
            with one_at_a_time:  # recomputed layers draw their noise again
                accelerator.backward(loss)
        except (RuntimeError, MemoryError) as error:
            failure = _out_of_memory(error)
        if failure:
            if num_processes > 1:
                raise ResourceError(
                    f"Out of memory while {num_processes} processes exchanged gradients: {failure}. Lower "
                    "--micro-batch-tokens or --max-length, then continue with --resume."
                )
            raise _OutOfMemoryError(failure)
        return float(mean), all_signals

    def _tell_all(self, loss: torch.Tensor, failure: str, signals: list[int]) -> tuple[torch.Tensor | float, list[int]]:
        """Return the mean loss over processes, and how many of them have received each signal.

        Raises:
            _OutOfMemoryError: If a process is out of memory.
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
            raise _OutOfMemoryError(failure or "on another process")
        return mean, all_signals

    def _halve_micro_batches(self, longest: int, *, found: str) -> None:
        clear_device_cache(garbage_collection=True)
        if self.max_tokens <= longest:
            raise ResourceError(
                f"Out of memory with a single text of {longest} tokens: {found}. Lower --max-length, freeze more, or "
                "use a smaller model. --resume continues from the last checkpoint."
            )
        self.max_tokens //= 2
        logger.warning(
            "out of memory: repeating the step with micro-batches of at most %d tokens, for the same gradient (%s)",
            self.max_tokens,
            found,
        )

    def _losses(self, batch: dict[str, Any], rows: np.ndarray) -> torch.Tensor:
        """Return the loss of each example [rows]."""
        targets = self.model.task.batch_targets(self.inputs.targets, self.inputs.tokens, rows)
        return self.objective.losses(self.network(**batch), targets.to(self.accelerator.device))

    def _batch(self, rows: np.ndarray) -> dict[str, Any]:
        return self.inputs.batch(rows, pad_id=self.model.pad_id, device=self.accelerator.device)

    def _features(self, parts: list[np.ndarray], rows: np.ndarray) -> dict[str, Any]:
        """Return the features of `rows`, which are those of all `parts`, computed here unless they were before."""
        features = self.inputs.features
        if features is not None:
            return {"features": features[torch.from_numpy(rows).to(features.device)]}

        def compute(rows: np.ndarray) -> torch.Tensor:
            return self.model.features(**self._batch(rows))

        with torch.no_grad(), self.accelerator.autocast():
            return {"features": torch.cat([found for part in parts for found in in_halves(compute, part)])}


def _out_of_memory(error: Exception) -> str:
    """Return the message of an error that says that memory has run out; raise any other error."""
    if not is_out_of_memory(error):
        raise error
    return str(error).partition("\n")[0] or type(error).__name__
