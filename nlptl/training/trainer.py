"""Trainer: fit and evaluate, on one process or many."""

import gc
import logging
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.data.batches import global_batches, micro_batches
from nlptl.data.order import stream_key
from nlptl.data.sources import Examples
from nlptl.data.writers import write_table
from nlptl.errors import ConfigError, NonFiniteError
from nlptl.evaluation.metrics import Scores, majority_scores, point_scores, score_predictions
from nlptl.evaluation.report import class_table, score_table
from nlptl.model.classifier import Classifier
from nlptl.tasks.single_label import example_losses, probabilities
from nlptl.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    prune_checkpoints,
    restore_optimizer,
    save_checkpoint,
)
from nlptl.training.inputs import Inputs, facts, logits_of, prepare_inputs
from nlptl.training.objective import share_of_mean
from nlptl.training.optimizer import build_optimizer, learning_rates, rate_multiplier
from nlptl.training.run import Run
from nlptl.training.tracking import Tracker

logger = logging.getLogger(__name__)

CPU_TOKENS, ACCELERATOR_TOKENS = 512, 16384
CLASSES_SHOWN = 20


@dataclass
class State:
    """Where training is; with the weights and the optimizer's state, all that a checkpoint needs."""

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    is_stopped: bool = False


class Trainer:
    """Trains a `Classifier` and scores it.

    The gradient of a step depends on its `batch_size` examples alone, not on micro-batches, padding or processes.
    """

    def __init__(
        self,
        model: Classifier,
        config: TrainingConfig,
        *,
        output_dir: str | Path | Run | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare to train `model`.

        Args:
            model: What is trained, in place.
            config: How.
            output_dir: Folder of the run; it is refused if it holds another one (`Run.open` resumes or overwrites).
                None: nothing is written.
            seed: Seeds the order of examples and dropout.

        Raises:
            ConfigError: If the folder holds another run, or the device does not have the precision asked for.
        """
        self.model = model
        self.config = config
        self.seed = seed
        self.accelerator = _accelerator(config.mixed_precision)
        self.run = Run.open(output_dir, config) if isinstance(output_dir, str | Path) else output_dir
        self.train_counts: np.ndarray | None = None
        self._best: dict[str, torch.Tensor] = {}

    def fit(self, train: Examples, *, validation: Examples | None = None) -> None:
        """Train, and keep the weights with the best score on `validation`; without it, the last ones.

        With an `output_dir`: a checkpoint at every evaluation, and the model folder and the scores on validation at the
        end.

        Raises:
            ConfigError: If a setting contradicts the model or the data.
            DataError: If a label is unknown to the model.
            NonFiniteError: If a loss or a gradient is NaN or infinite; the step is not taken.
        """
        logger.info(self.model.describe_training())
        self.model.to(self.accelerator.device)
        learning_rates(self.config, head_only=self.model.trains_head_only)
        inputs = self._prepare(train, reuse=self.config.reuse_features)
        held_out = None if validation is None else self._prepare(validation, reuse=self.config.reuse_features)
        self.train_counts = np.bincount(inputs.labels, minlength=len(self.model.labels))
        if self.run is not None:
            self.run.record_data(facts(self.model, inputs, held_out, seed=self.seed, **self._derived(inputs)))
        self._train(inputs, held_out)
        if self.run is not None and self.run.is_main_process:
            self.model.save(self.run.path / "model")
        if held_out is not None:
            self._score(held_out)
        self.accelerator.wait_for_everyone()

    def evaluate(self, examples: Examples) -> Scores:
        """Score the model on `examples`, each exactly once, with 95 % intervals, and log the table.

        With an `output_dir`: adds them to `scores.json`, and for the test split writes `predictions.csv`.

        Raises:
            DataError: If a label is unknown to the model.
        """
        self.model.to(self.accelerator.device)
        inputs = self._prepare(examples, reuse=False)
        scores, baseline, shares = self._score(inputs)
        logger.info("\n%s", score_table(scores, split=examples.split, baseline=baseline))
        if 2 < len(self.model.labels) <= CLASSES_SHOWN:
            logger.info("\n%s", class_table(scores))
        if self.run is not None and self.run.is_main_process and examples.split == "test":
            self._write_predictions(self.run.path / "predictions.csv", examples, shares)
        self.accelerator.wait_for_everyone()
        return scores

    def _prepare(self, examples: Examples, *, reuse: bool) -> Inputs:
        return prepare_inputs(self.model, examples, self.accelerator, self.run, reuse=reuse)

    def _train(self, inputs: Inputs, held_out: Inputs | None) -> None:
        config, model = self.config, self.model
        steps_per_epoch = -(-len(inputs) // config.batch_size)
        num_steps = steps_per_epoch * config.num_epochs
        max_tokens = self._max_tokens(inputs)
        network, optimizer = self.accelerator.prepare(model, build_optimizer(model, config))
        state = self._resume(optimizer)
        tracker = Tracker(
            None if self.run is None else self.run.path / "metrics.jsonl",
            num_steps=num_steps,
            first_step=state.step,
            is_main_process=self.accelerator.is_main_process,
        )
        model.train()
        first_step = num_steps if state.is_stopped else state.step
        losses: list[float] = []  # since the last evaluation
        for step, indices in global_batches(
            len(inputs), config.batch_size, seed=self.seed, first_step=first_step, num_steps=num_steps
        ):
            multiplier = rate_multiplier(
                step, num_steps=num_steps, warmup_ratio=config.warmup_ratio, schedule=config.schedule
            )
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * multiplier
            loss, norm = self._step(network, optimizer, inputs, indices, step=step, max_tokens=max_tokens)
            state.step = step + 1
            losses.append(loss)
            tracker.advance(loss=loss)
            if state.step % config.logging_steps == 0:
                rate = optimizer.param_groups[-1]["lr"]
                tracker.record(step=state.step, loss=loss, gradient_norm=norm, learning_rate=rate)
            if state.step % (config.eval_steps or steps_per_epoch) == 0 or state.step == num_steps:
                mean = float(np.mean(losses))
                self._evaluate(held_out, state, tracker, epoch=state.step / steps_per_epoch, loss=mean)
                losses.clear()
                self._save(state, optimizer)
                if state.is_stopped:
                    break
        tracker.close()
        self._restore_best(held_out, state)
        self.accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # with mixed precision, forward was replaced
        # A DistributedDataParallel that outlives its process group can hang the process at its end.
        self.accelerator.free_memory(network, optimizer)
        del network, optimizer
        gc.collect()

    def _step(
        self,
        network: nn.Module,
        optimizer: Any,
        inputs: Inputs,
        indices: np.ndarray,
        *,
        step: int,
        max_tokens: int,
    ) -> tuple[float, float]:
        """Take one optimizer step on the global batch `indices`; return its loss and the norm of its gradient."""
        accelerator, config = self.accelerator, self.config
        process, num_processes = accelerator.process_index, accelerator.num_processes
        share = micro_batches(
            indices, inputs.tokens.lengths, max_tokens=max_tokens, process=process, num_processes=num_processes
        )
        # A process without a share takes part with a loss of zero, since the others wait for its gradient.
        parts = share or [indices[:1]]
        total = torch.zeros((), device=accelerator.device)
        for i, rows in enumerate(parts):
            torch.manual_seed(stream_key("noise", self.seed, step, i, process))
            with nullcontext() if i == len(parts) - 1 else accelerator.no_sync(network):
                batch, labels = inputs.batch(rows, pad_id=self.model.pad_id, device=accelerator.device)
                losses = example_losses(
                    network(**batch),
                    labels,
                    binary_loss=self.model.head.binary_loss,
                    label_smoothing=config.label_smoothing,
                )
                loss = share_of_mean(losses, global_count=len(indices), num_processes=num_processes)
                accelerator.backward(loss if share else loss * 0)
            total += loss.detach() if share else 0
        mean = float(accelerator.reduce(total, "mean"))
        limit = config.max_grad_norm if config.max_grad_norm > 0 else float("inf")
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), limit))
        # With fp16 the loss scale is lowered and the step left out when a gradient overflows: that is no divergence.
        if not np.isfinite(mean) or not (np.isfinite(norm) or config.mixed_precision == "fp16"):
            examples = inputs.examples
            raise NonFiniteError(
                f"Expected a finite loss and gradient, found loss {mean} and gradient norm {norm} in step {step + 1}, "
                f"on rows {[examples.rows[i] for i in indices[:5]]} and {max(0, len(indices) - 5)} more of "
                f"{examples.source}. The step was not taken. Lower --learning-rate, or use --mixed-precision no."
            )
        optimizer.step()
        optimizer.zero_grad()
        return mean, norm

    def _evaluate(self, held_out: Inputs | None, state: State, tracker: Tracker, *, epoch: float, loss: float) -> None:
        """Score validation, remember the weights if they are the best so far, decide whether to stop."""
        line = f"epoch {epoch:.4g}: loss {loss:.4f}"
        if held_out is None:
            tracker.say(line)
            return
        name = self.config.selection_metric
        shares = probabilities(logits_of(self.model, held_out, self.accelerator)).numpy()
        scores = point_scores(held_out.labels, shares)
        value = scores[name]
        sign = -1 if name == "log_loss" else 1
        is_best = bool(np.isfinite(value)) and (state.best_value is None or sign * value > sign * state.best_value)
        state.evaluations_since_best = 0 if is_best else state.evaluations_since_best + 1
        if is_best:
            state.best_step, state.best_value = state.step, value
            self._best = {key: tensor.clone() for key, tensor in self._trained_tensors().items()}
        patience = self.config.early_stopping
        state.is_stopped = patience is not None and state.evaluations_since_best >= patience
        tracker.record(step=state.step, epoch=epoch, loss=loss, **{f"validation_{key}": v for key, v in scores.items()})
        tracker.say(
            f"{line}, validation {name} {value:.4f}"
            + (" (best so far)" if is_best else "")
            + (f"; stopping, no better score in {patience} evaluations" if state.is_stopped else "")
        )

    def _save(self, state: State, optimizer: Any) -> None:
        if self.run is not None and self.run.is_main_process:
            scaler = None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
            checkpoint = Checkpoint(
                self._trained_tensors(),
                optimizer_tensors(optimizer.optimizer, self._parameter_names()),
                {**asdict(state), "scaler": scaler},
            )
            save_checkpoint(self.run.checkpoints, state.step, checkpoint)
            keep = {state.step} if state.best_step is None else {state.step, state.best_step}
            prune_checkpoints(self.run.checkpoints, keep=keep)
        self.accelerator.wait_for_everyone()

    def _resume(self, optimizer: Any) -> State:
        checkpoint = None
        if self.run is not None and self.run.resume:
            checkpoint = latest_checkpoint(self.run.checkpoints)
        if checkpoint is None or self.run is None:
            return State()
        scaler = checkpoint.state.pop("scaler")
        state = State(**checkpoint.state)
        self._load_tensors(checkpoint.weights)
        restore_optimizer(optimizer.optimizer, checkpoint.optimizer, self._parameter_names())
        if self.accelerator.scaler is not None and scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        if state.best_step is not None:
            self._best = load_checkpoint(self.run.checkpoints, state.best_step).weights
        logger.info("resuming after step %d", state.step)
        return state

    def _restore_best(self, held_out: Inputs | None, state: State) -> None:
        if held_out is not None and self._best:
            self._load_tensors(self._best)
            logger.info(
                "kept the model of step %s: best validation %s %.4f",
                state.best_step,
                self.config.selection_metric,
                state.best_value,
            )
        self._best = {}

    def _score(self, inputs: Inputs) -> tuple[Scores, Scores | None, np.ndarray]:
        shares = probabilities(logits_of(self.model, inputs, self.accelerator)).numpy()
        names = self.model.labels.names
        scores = score_predictions(inputs.labels, shares, names=names, seed=self.seed)
        baseline = None
        if self.train_counts is not None:
            baseline = majority_scores(inputs.labels, train_counts=self.train_counts, names=names, seed=self.seed)
        if self.run is not None:
            self.run.write_scores(inputs.examples.split, scores, baseline)
        return scores, baseline, shares

    def _write_predictions(self, path: Path, examples: Examples, shares: np.ndarray) -> None:
        names = self.model.labels.names
        best = shares.argmax(axis=1)
        columns: dict[str, list[Any]] = {
            "row": examples.rows,
            "label": examples.labels,
            "predicted": [names[i] for i in best],
            "probability": shares.max(axis=1).tolist(),
            **{f"probability_{name}": shares[:, i].tolist() for i, name in enumerate(names)},
        }
        write_table(path, columns)

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        parameters = self.model.network.named_parameters()
        return {name: p.detach().cpu().contiguous() for name, p in parameters if p.requires_grad}

    def _load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        parameters = dict(self.model.network.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(tensor)

    def _parameter_names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.model.network.named_parameters()}

    def _max_tokens(self, inputs: Inputs) -> int:
        wanted = self.config.micro_batch_tokens
        if wanted is None:
            return CPU_TOKENS if self.accelerator.device.type == "cpu" else ACCELERATOR_TOKENS
        longest = int(inputs.tokens.lengths.argmax())
        length = int(inputs.tokens.lengths[longest])
        if wanted < length:
            raise ConfigError(
                f"Expected micro_batch_tokens to hold the longest example, {length} tokens ({inputs.examples.split}, "
                f"row {inputs.examples.rows[longest]}), found {wanted}. Raise --micro-batch-tokens to {length} or "
                f"more, lower --max-length to {wanted}, or leave --micro-batch-tokens unset."
            )
        return wanted

    def _derived(self, inputs: Inputs) -> dict[str, Any]:
        encoder_rate, head_rate = learning_rates(self.config, head_only=self.model.trains_head_only)
        return {
            "learning_rate": encoder_rate,
            "head_learning_rate": head_rate,
            "micro_batch_tokens": self._max_tokens(inputs),
            "pooling": self.model.head.pooling,
            "max_length": self.model.max_length,
        }


def _accelerator(mixed_precision: str) -> Accelerator:
    has_cuda = torch.cuda.is_available()
    if mixed_precision != "no" and (not has_cuda or (mixed_precision == "bf16" and not torch.cuda.is_bf16_supported())):
        raise ConfigError(
            f"Expected a device with {mixed_precision}, found "
            f"{torch.cuda.get_device_name() if has_cuda else 'a CPU'}. Pass --mixed-precision no."
        )
    return Accelerator(mixed_precision=mixed_precision)
