"""One optimizer step: the gradient of a global batch, in any split, and the update."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.data.batches import micro_batches
from nlptl.data.order import stream_key
from nlptl.errors import NonFiniteError
from nlptl.model.classifier import Classifier
from nlptl.tasks.single_label import example_losses
from nlptl.training.inputs import Inputs
from nlptl.training.objective import share_of_mean
from nlptl.training.regularizers import add_l2_sp, linear_weights, mixed_weights, perturbed, symmetric_divergence


@dataclass(frozen=True)
class Stepper:
    """What every step of a stage needs.

    `network` is `model` as Accelerate has prepared it; `takes_features` says that the head alone trains, and reads what
    never changes; `pretrained` holds the weights that the encoder started with, by
    name, where a regularizer wants them.
    """

    model: Classifier
    network: nn.Module
    optimizer: Any
    accelerator: Accelerator
    config: TrainingConfig
    seed: int
    max_tokens: int
    takes_features: bool
    pretrained: dict[str, torch.Tensor]

    def take(self, inputs: Inputs, indices: np.ndarray, *, step: int) -> tuple[float, float]:
        """Take one optimizer step on the global batch `indices`; return its loss and the norm of its gradient.

        Raises:
            NonFiniteError: If the loss or the gradient is NaN or infinite; the step is not taken.
        """
        accelerator, config = self.accelerator, self.config
        with self._mixed(step):
            loss = self._backward(inputs, indices, "noise", step)
            table = self.model.network.base_model.get_input_embeddings().weight
            if config.fgm > 0 and table.requires_grad:
                with perturbed(table, config.fgm):
                    loss = (loss + self._backward(inputs, indices, "fgm", step)) / 2
        if config.l2_sp > 0:
            scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()
            add_l2_sp(self._own_weights(), self.pretrained, config.l2_sp, scale=scale)
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
        return loss, norm

    def _backward(self, inputs: Inputs, indices: np.ndarray, stream: str, step: int) -> float:
        """Add the gradient of the mean loss of the global batch to what is there; return the mean loss.

        `stream` names the noise of dropout, which is drawn for each step, micro-batch and process.
        """
        accelerator = self.accelerator
        process, num_processes = accelerator.process_index, accelerator.num_processes
        max_tokens = self.max_tokens // self._num_passes
        share = micro_batches(
            indices, inputs.tokens.lengths, max_tokens=max_tokens, process=process, num_processes=num_processes
        )
        # A process without a share takes part with a loss of zero, since the others wait for its gradient.
        parts = share or [indices[:1]]
        batches: Iterator[dict[str, torch.Tensor]] = (self._batch(inputs, rows) for rows in parts)
        if self.takes_features:
            # The head takes all at once, so that its noise is the same whether features are computed here or before.
            parts, batches = [np.concatenate(parts)], iter([{"features": self._features(inputs, parts)}])
        contributions = []
        for i, (rows, batch) in enumerate(zip(parts, batches, strict=True)):
            _seed_noise(stream_key(stream, self.seed, step, i, process), accelerator.device)
            with nullcontext() if i == len(parts) - 1 else accelerator.no_sync(self.network):
                losses = self._losses(batch, inputs.label_ids(rows, device=accelerator.device))
                loss = share_of_mean(losses, global_count=len(indices), num_processes=num_processes)
                accelerator.backward(loss if share else loss * 0)
            contributions.append(loss.detach() if share else loss.detach() * 0)
        return float(accelerator.reduce(torch.stack(contributions).sum(), "mean"))

    def _losses(self, batch: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of each example [rows]; with R-Drop, that of two passes and their divergence."""
        config, num_passes = self.config, self._num_passes
        if num_passes > 1:
            batch = {k: torch.cat([v] * num_passes) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        logits = self.network(**batch)
        losses = example_losses(
            logits,
            labels.repeat(num_passes),
            binary_loss=self.model.head.binary_loss,
            label_smoothing=config.label_smoothing,
        )
        if num_passes == 1:
            return losses
        first, second = logits.chunk(2)
        return losses.view(2, -1).mean(dim=0) + config.r_drop * symmetric_divergence(first, second)

    def _batch(self, inputs: Inputs, rows: np.ndarray) -> dict[str, Any]:
        return inputs.batch(rows, pad_id=self.model.pad_id, device=self.accelerator.device)

    def _features(self, inputs: Inputs, parts: list[np.ndarray]) -> torch.Tensor:
        """Return what the head reads of the rows in `parts`, in their order, as it was computed before or now."""
        if inputs.features is not None:
            return inputs.features[torch.from_numpy(np.concatenate(parts)).to(inputs.features.device)]
        with torch.no_grad(), self.accelerator.autocast():
            return torch.cat([self.model.features(**self._batch(inputs, rows)) for rows in parts])

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def _num_passes(self) -> int:
        return 2 if self.config.r_drop > 0 else 1

    def _mixed(self, step: int) -> AbstractContextManager[None]:
        if self.config.mixout == 0:
            return nullcontext()
        weights = {name: p for name, p in linear_weights(self.model.network).items() if name in self.pretrained}
        return mixed_weights(weights, self.pretrained, self.config.mixout, key=stream_key("mixout", self.seed, step))

    def _own_weights(self) -> dict[str, nn.Parameter]:
        """Return the weights of the encoder that train now and came pretrained, by name."""
        named = self.model.network.named_parameters()
        return {name: p for name, p in named if p.requires_grad and name in self.pretrained}


def _seed_noise(key: int, device: torch.device) -> None:
    """Seed what dropout draws; `torch.manual_seed` would seed devices that are not there too, and take longer."""
    torch.default_generator.manual_seed(key)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(key)
