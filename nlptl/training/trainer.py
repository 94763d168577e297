"""Trainer: fit and evaluate, on one process or many."""

import gc
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.data.batches import global_batches, micro_batches
from nlptl.data.order import stream_key
from nlptl.data.sources import Examples
from nlptl.errors import NonFiniteError, ResourceError
from nlptl.evaluation.metrics import Scores, majority_scores, point_scores, score_predictions
from nlptl.evaluation.report import class_table, score_table
from nlptl.model.classifier import Classifier
from nlptl.tasks.single_label import example_losses, probabilities
from nlptl.training.checkpoint import latest_checkpoint, prune_checkpoints, save_checkpoint
from nlptl.training.devices import on_main, open_accelerator
from nlptl.training.inputs import Inputs, encode_once, facts, logits_of, prepare_inputs, token_budget
from nlptl.training.objective import share_of_mean
from nlptl.training.optimizer import build_optimizer, learning_rates, rate_multiplier
from nlptl.training.run import Run
from nlptl.training.snapshot import State, capture, load_tensors, restore, trained_tensors
from nlptl.training.tracking import Tracker

logger = logging.getLogger(__name__)

CLASSES_SHOWN = 20


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
        self.accelerator = open_accelerator(config.mixed_precision)
        self.run = Run.open(output_dir, config) if isinstance(output_dir, str | Path) else output_dir
        self.train_counts: np.ndarray | None = None
        self._best: dict[str, torch.Tensor] = {}
        self._saved_steps: list[set[int]] = []

    def fit(self, train: Examples, *, validation: Examples | None = None) -> None:
        """Train, and keep the weights with the best score on `validation`; without it, the last ones.

        With an `output_dir`: a checkpoint at every evaluation, and the model folder and the scores on validation at the
        end.

        Raises:
            ConfigError: If a setting contradicts the model or the data, or the run that is to be resumed.
            DataError: If a split is empty, has no labels, or has one that is unknown to the model.
            UntrustedFileError: If the run that is to be resumed has checkpoints and none of them is whole.
            NonFiniteError: If a loss or a gradient is NaN or infinite; the step is not taken.
        """
        logger.info(self.model.describe_training())
        self.model.to(self.accelerator.device)
        encoder_rate, head_rate = learning_rates(
            self.config, head_only=self.model.trains_head_only, is_linear=self.model.head_is_linear
        )
        inputs = prepare_inputs(self.model, train, self.run)
        held_out = None if validation is None else prepare_inputs(self.model, validation, self.run)
        self.train_counts = np.bincount(inputs.labels, minlength=len(self.model.labels))
        max_tokens = token_budget(inputs, self.config.micro_batch_tokens, self.accelerator.device)
        if self.run is not None:
            derived = {"learning_rate": encoder_rate, "head_learning_rate": head_rate, "micro_batch_tokens": max_tokens}
            self.run.record_data(facts(self.model, inputs, held_out, seed=self.seed, **derived))
        if self.config.reuse_features:
            inputs = encode_once(self.model, inputs, self.accelerator)
            held_out = None if held_out is None else encode_once(self.model, held_out, self.accelerator)
        self._train(inputs, held_out, max_tokens=max_tokens)
        if self.run is not None:
            self.run.write_model(self.model)
        if held_out is not None:
            self._score(held_out)

    def evaluate(self, examples: Examples) -> Scores:
        """Score the model on `examples`, each exactly once, with 95 % intervals, and log the table.

        With an `output_dir`: adds them to `scores.json`, and for the test split writes `predictions.csv`.

        Raises:
            DataError: If the split is empty, has no labels, or has one that is unknown to the model.
        """
        self.model.to(self.accelerator.device)
        inputs = prepare_inputs(self.model, examples, self.run)
        scores, baseline, shares = self._score(inputs)
        logger.info("\n%s", score_table(scores, split=examples.split, baseline=baseline))
        if 2 < len(self.model.labels) <= CLASSES_SHOWN:
            logger.info("\n%s", class_table(scores))
        if self.run is not None and examples.split == "test":
            self.run.write_predictions(examples, shares, names=self.model.labels.names)
            logger.info(
                '\nThe run is in %s; try: nlptl predict %s --text "..."', self.run.path, self.run.path / "model"
            )
        return scores

    def _train(self, inputs: Inputs, held_out: Inputs | None, *, max_tokens: int) -> None:
        accelerator = self.accelerator
        self.model.zero_grad()  # of a training that was interrupted in the middle of a step
        network, optimizer = accelerator.prepare(self.model, build_optimizer(self.model, self.config))
        try:
            state = self._resume(optimizer)
            self._loop(network, optimizer, inputs, held_out, state, max_tokens=max_tokens)
            self._restore_best(state)
        except KeyboardInterrupt:
            if self.run is not None:
                logger.warning("interrupted: --resume goes on from the last checkpoint in %s", self.run.checkpoints)
            raise
        finally:
            self._best, self._saved_steps = {}, []
            accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # with mixed precision, forward was replaced
            accelerator.free_memory(network, optimizer)
            if accelerator.num_processes > 1:
                # A DistributedDataParallel that outlives its process group can hang the process at its end.
                del network, optimizer
                gc.collect()

    def _loop(
        self,
        network: nn.Module,
        optimizer: Any,
        inputs: Inputs,
        held_out: Inputs | None,
        state: State,
        *,
        max_tokens: int,
    ) -> None:
        config, num_examples = self.config, len(inputs)
        steps_per_epoch = -(-num_examples // config.batch_size)
        num_steps = steps_per_epoch * config.num_epochs
        first_step = num_steps if state.is_stopped else state.step
        losses: list[float] = []  # since the last evaluation
        self.model.train()
        with Tracker(
            None if self.run is None else self.run.path / "metrics.jsonl",
            num_steps=num_steps,
            first_step=state.step,
            is_main_process=self.accelerator.is_main_process,
        ) as tracker:
            for step, indices in global_batches(
                num_examples, config.batch_size, seed=self.seed, first_step=first_step, num_steps=num_steps
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
                    losses.clear()
                    self._evaluate(held_out, state, tracker, epoch=state.step / steps_per_epoch, loss=mean)
                    self._save(state, optimizer)
                    if state.is_stopped:
                        break

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
        contributions = []
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
            contributions.append(loss.detach() if share else loss.detach() * 0)
        mean = float(accelerator.reduce(torch.stack(contributions).sum(), "mean"))
        limit = config.max_grad_norm if config.max_grad_norm > 0 else float("inf")
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), limit))
        # With fp16 the loss scale is lowered and the step left out when a gradient overflows: that is no divergence
        # until there is no scale left to lower.
        can_overflow = accelerator.scaler is not None and accelerator.scaler.get_scale() >= 1
        if not np.isfinite(mean) or not (np.isfinite(norm) or can_overflow):
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
        config, weights = self.config, trained_tensors(self.model.network)
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise NonFiniteError(
                f"Expected finite weights, found NaN or infinity in {broken[0]} and {len(broken) - 1} more after step "
                f"{state.step}. Neither checkpoint nor model was written. Lower --learning-rate, or use "
                "--mixed-precision no."
            )
        line = f"epoch {epoch:.4g}: loss {loss:.4f}"
        if held_out is None:
            tracker.say(line)
            return
        name, patience = config.selection_metric, config.early_stopping
        shares = probabilities(logits_of(self.model, held_out, self.accelerator)).numpy()
        scores = point_scores(held_out.labels, shares)
        # Probabilities that are NaN still have a largest one, but never a finite log loss.
        value = scores[name] if np.isfinite(scores["log_loss"]) else float("nan")
        is_best = state.observe(value, lower_is_better=name == "log_loss", patience=patience)
        if is_best:
            self._best = {key: tensor.clone() for key, tensor in weights.items()}
        tracker.record(step=state.step, epoch=epoch, loss=loss, **{f"validation_{key}": v for key, v in scores.items()})
        tracker.say(
            f"{line}, validation {name} {value:.4f}"
            + (" (best so far)" if is_best else "")
            + (f"; stopping, no better score in {patience} evaluations" if state.is_stopped else "")
        )

    def _save(self, state: State, optimizer: Any) -> None:
        if self.run is None:
            return
        folder = self.run.checkpoints
        needed = {state.step} if state.best_step is None else {state.step, state.best_step}
        # The last two can be resumed from, each with the best weights up to there.
        self._saved_steps = [*self._saved_steps[-1:], needed]

        def save() -> None:
            snapshot = capture(self.model.network, optimizer.optimizer, state, self.accelerator.scaler)
            save_checkpoint(folder, state.step, snapshot)
            prune_checkpoints(folder, keep=set().union(*self._saved_steps))

        on_main(save)

    def _resume(self, optimizer: Any) -> State:
        if self.run is None or not self.run.resume:
            return State()
        state = State()
        found = latest_checkpoint(self.run.checkpoints)
        if found is None:
            logger.info("no checkpoint in %s: starting from the beginning", self.run.checkpoints)
        else:
            checkpoint, best = found
            state = restore(checkpoint, self.model.network, optimizer.optimizer, self.accelerator.scaler)
            self._best = {} if best is None else best.weights
            self._saved_steps = [{state.step} if state.best_step is None else {state.step, state.best_step}]
            logger.info("resuming after step %d", state.step)
        steps = self.accelerator.gather(torch.tensor([state.step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ResourceError(
                f"Expected all processes to resume after the same step, found steps {steps}. Put --output-dir on a "
                "disk that every machine sees."
            )
        return state

    def _restore_best(self, state: State) -> None:
        if self._best:
            load_tensors(self.model.network, self._best)
            logger.info(
                "kept the model of step %s: best validation %s %.4f",
                state.best_step,
                self.config.selection_metric,
                state.best_value,
            )

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
