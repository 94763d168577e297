"""The training loop: stages, epochs and steps; evaluation, checkpoints and resuming."""

import gc
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.data.batches import global_batches
from nlptl.errors import NonFiniteError, ResourceError
from nlptl.evaluation.metrics import LOWER_IS_BETTER
from nlptl.model.classifier import Classifier
from nlptl.model.quick import quick_layers
from nlptl.training.boundary import cut_at_boundary
from nlptl.training.checkpoint import (
    Background,
    Checkpoint,
    latest_checkpoint,
    pack,
    prune_checkpoints,
    save_checkpoint,
)
from nlptl.training.devices import on_main
from nlptl.training.encoding import FrozenEncoder
from nlptl.training.inputs import Inputs, logits_of
from nlptl.training.interruption import is_asked_to_end, leave, stepping
from nlptl.training.optimizer import build_optimizer, rate_multiplier
from nlptl.training.plan import describe_stage, selection_metric
from nlptl.training.run import Run
from nlptl.training.snapshot import (
    State,
    capture,
    load_tensors,
    names_by_id,
    restore_optimizer,
    restore_weights,
    trained_tensors,
)
from nlptl.training.stages import Stage
from nlptl.training.step import Stepper
from nlptl.training.tracking import OutsideTracker, Tracker

logger = logging.getLogger(__name__)


@dataclass
class Loop:
    """A training, from its first stage to its last. It leaves the model with the selected weights."""

    model: Classifier
    config: TrainingConfig
    accelerator: Accelerator
    run: Run | None
    outside: OutsideTracker | None
    stages: list[Stage]
    seed: int
    max_tokens: int
    encoder: FrozenEncoder

    def __post_init__(self) -> None:
        # Each stage trains all that the one before it does, so that the last one names all that ever trains.
        self.names = frozenset(name for name, p in self.model.network.named_parameters() if p.requires_grad)
        self.state = State()
        self.best: dict[str, torch.Tensor] = {}
        self.writing = Background()

    def train(self, inputs: Inputs, held_out: Inputs | None) -> None:
        """Train through all stages, and keep the weights with the best score on `held_out`, or the last ones."""
        self.model.zero_grad()  # of a training that was interrupted in the middle of a step
        frozen, train_only = self.model.transfer.freeze, self.model.transfer.train_only
        self.steps_per_epoch = -(-len(inputs) // self.config.batch_size)
        checkpoint = self._resume()
        if self.outside is not None:
            self.outside.start(first_step=self.state.step)
        self.tracker = Tracker(
            None if self.run is None else self.run.path / "metrics.jsonl",
            num_steps=self.config.num_epochs * self.steps_per_epoch,
            first_step=self.state.step,
            is_main_process=self.accelerator.is_main_process,
            outside=self.outside,
        )
        try:
            with closing(self.tracker.bar):
                for stage in self.stages:
                    end = (stage.first_epoch + stage.num_epochs) * self.steps_per_epoch
                    if self.state.step < end and not self.state.is_stopped:
                        self.model.freeze(frozen, train_only=train_only, top=stage.top)
                        self._train_stage(stage, inputs, held_out, checkpoint)
                        checkpoint = None
                        if self.accelerator.num_processes > 1:
                            # A DistributedDataParallel that outlives its process group can hang the process at exit.
                            gc.collect()
                on_main(self.writing.finish)
        except BaseException as error:
            if type(error) is not KeyboardInterrupt or not is_asked_to_end():  # the second signal ends at once
                self.writing.wait()
            if self.outside is not None:
                self.outside.finish()
            raise
        finally:
            self.model.freeze(frozen, train_only=train_only)
        self._keep_best()

    def _train_stage(
        self, stage: Stage, inputs: Inputs, held_out: Inputs | None, checkpoint: Checkpoint | None
    ) -> None:
        model, first_step = self.model, stage.first_epoch * self.steps_per_epoch
        if len(self.stages) > 1:
            line = describe_stage(model, self.config, stage, self.stages)
            self.tracker.say(f"{stage.describe()}: {line}")
        inputs = self._precompute(inputs, num_passes=stage.num_epochs)
        if held_out is not None:
            every = self.config.eval_steps or self.steps_per_epoch
            held_out = self._precompute(held_out, num_passes=stage.num_epochs * self.steps_per_epoch // every)
        optimizer = build_optimizer(model, self.config, before_encoder=stage is not self.stages[-1])
        if self.state.step == first_step:
            self.state.evaluations_since_best = 0  # a stage gets the whole patience of early stopping
        elif checkpoint is not None:
            restore_optimizer(optimizer, checkpoint.optimizer, names_by_id(model.network))
        model.train()  # quick layers replace dropout only in train mode
        # The forward pass uses quick layers anyway, but a layer is recomputed for its gradient outside of it.
        recomputes = model.checkpoints_gradients and not model.features_are_constant
        with (
            self._prepared(optimizer) as (network, prepared),
            stepping() as signals,
            quick_layers(model) if recomputes else nullcontext(),
        ):
            stepper = Stepper(
                model, network, prepared, self.accelerator, self.config, inputs, self.seed, self.max_tokens
            )
            self._take_steps(stage, stepper, held_out, signals)

    def _precompute(self, inputs: Inputs, *, num_passes: int) -> Inputs:
        """Return a split with what stays the same in this stage: features, or hidden states above frozen layers."""
        cache = self.encoder.cache
        if cache is None:
            return inputs
        inputs = self.encoder.encode(inputs)
        if inputs.features is not None:
            return inputs
        how: dict[str, Any] = {"dtype": self.config.cache_dtype, "folder": cache.folder}
        return cut_at_boundary(self.model, inputs, self.accelerator, num_passes=num_passes, **how)

    @contextmanager
    def _prepared(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[nn.Module, Any]]:
        """Give the model and the optimizer as Accelerate wraps them, and unwrap them at the end."""
        accelerator = self.accelerator
        # On one process in full precision Accelerate has nothing to add, and its wrappers take time in every step.
        if accelerator.num_processes == 1 and accelerator.mixed_precision == "no":
            yield self.model, optimizer
            return
        network, prepared = accelerator.prepare(self.model, optimizer)
        # Encoders' buffers never change, and a process that exchanges them would wait for one that is out of memory.
        network.broadcast_buffers = False
        try:
            yield network, prepared
        finally:
            accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # mixed precision has replaced forward
            accelerator.free_memory(network, prepared)

    def _take_steps(self, stage: Stage, stepper: Stepper, held_out: Inputs | None, signals: list[int]) -> None:
        config, state, inputs = self.config, self.state, stepper.inputs
        first_step, num_steps = stage.first_epoch * self.steps_per_epoch, stage.num_epochs * self.steps_per_epoch
        last_step = first_step + num_steps
        for step, indices in global_batches(
            len(inputs),
            config.batch_size,
            seed=self.seed,
            first_step=state.step,
            num_steps=last_step,
            classes=inputs.targets if config.sampling == "balanced" else None,
        ):
            if not self.model.training:  # an evaluation leaves it in eval mode
                self.model.train()
            multiplier = rate_multiplier(
                step - first_step, num_steps=num_steps, warmup_ratio=config.warmup_ratio, schedule=config.schedule
            )
            for group in stepper.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * multiplier
            try:
                done = stepper.take(indices, step=step, signals=signals)
            except NonFiniteError:
                if self.run is not None:
                    rows = [int(inputs.examples.rows[i]) for i in indices]
                    about = {"step": step + 1, "source": inputs.examples.source, "rows": rows}
                    self.run.write_json("nonfinite.json", about)
                raise
            if stepper.max_tokens < self.max_tokens:
                self.max_tokens = state.micro_batch_tokens = stepper.max_tokens
            state.step = step + 1
            state.loss_sum, state.num_losses = state.loss_sum + done.loss, state.num_losses + 1
            self.tracker.advance(loss=done.loss)
            if state.step % config.logging_steps == 0:
                rate = stepper.optimizer.param_groups[-1]["lr"]
                self.tracker.record(step=state.step, loss=done.loss, gradient_norm=done.norm, learning_rate=rate)
            is_last = state.step == last_step
            is_evaluated = is_last or state.step % (config.eval_steps or self.steps_per_epoch) == 0
            if is_evaluated:
                self._evaluate(held_out, stage)
            is_due = is_evaluated if config.save_steps is None else is_last or state.step % config.save_steps == 0
            is_due = is_due or state.best_step == state.step or state.is_stopped
            # An evaluation takes long enough for a signal to arrive, and there may be no step after it.
            known = self._all_signals(signals) if is_evaluated else list(done.signals)
            if is_due or any(known):
                self._save(stepper.optimizer, is_due=is_due)
            if any(known):
                self._end(known)
            if state.is_stopped:
                break
        if any(known := self._all_signals(signals)):  # since the last evaluation
            self._end(known)

    def _all_signals(self, signals: list[int]) -> list[int]:
        """Return how many processes have received each signal so far. Every process must call this."""
        counts = torch.tensor(signals, device=self.accelerator.device)
        return list(map(int, self.accelerator.reduce(counts, "sum").tolist()))

    def _end(self, signals: list[int]) -> None:
        """End the process, after the last checkpoint is on disk."""
        on_main(self.writing.finish)
        if self.run is not None and self.accelerator.is_main_process:
            where = (self.state.step, self.run.checkpoints)
            logger.warning("interrupted after step %d; --resume continues from its checkpoint in %s", *where)
        leave(signals)

    def _evaluate(self, held_out: Inputs | None, stage: Stage) -> None:
        """Score the validation split, copy the weights if they are the best so far, and decide whether to stop."""
        config, state = self.config, self.state
        epoch, loss = state.step / self.steps_per_epoch, state.loss_sum / state.num_losses
        state.loss_sum, state.num_losses = 0.0, 0
        weights = trained_tensors(self.model.network, self.names)
        self._check_finite(weights)
        line = f"epoch {epoch:.4g}: loss {loss:.4f}"
        if held_out is None:
            self.tracker.say(line)
            return
        logits, task = logits_of(self.model, held_out, self.accelerator), self.model.task
        name = selection_metric(task, config)
        is_finite = bool(torch.isfinite(logits).all())
        scores = task.point_scores(held_out.targets, task.outputs(logits)) if is_finite else {name: float("nan")}
        # Early stopping never ends a stage that trains the head alone: the encoder has yet to train.
        patience = config.early_stopping if stage is self.stages[-1] else None
        is_best = state.observe(scores[name], lower_is_better=name in LOWER_IS_BETTER, patience=patience)
        if is_best:
            self.best = {key: tensor.clone() for key, tensor in weights.items()}
        validation = {f"validation_{key}": value for key, value in scores.items()}
        self.tracker.record(step=state.step, epoch=epoch, loss=loss, **validation)
        self.tracker.say(
            f"{line}, validation {name} {scores[name]:.4f}"
            + (" (best so far)" if is_best else "")
            + (f"; stopping early: no better score in {patience} evaluations" if state.is_stopped else "")
        )

    def _check_finite(self, weights: dict[str, torch.Tensor]) -> None:
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise NonFiniteError(
                f"NaN or infinity in the weights {broken[0]} and {len(broken) - 1} more after step {self.state.step}. "
                "This checkpoint and the model were not written. Lower --learning-rate, or pass --mixed-precision no."
            )

    def _save(self, optimizer: torch.optim.Optimizer, *, is_due: bool) -> None:
        """Write a checkpoint in the background. One that is not due is only kept until the next one."""
        if self.run is None:
            return
        run, folder, state = self.run, self.run.checkpoints, self.state
        # A checkpoint that is kept needs the one with the best weights up to it.
        needed = [state.step] if state.best_step is None else [state.step, state.best_step]
        kept = [*state.kept[1 - self.config.keep_last :], needed]
        if is_due:
            state.kept = kept
        step, steps = state.step, {step for needed in kept for step in needed}

        def save() -> None:
            self.writing.finish()  # memory holds one checkpoint at a time
            files = pack(capture(self.model.network, self.names, optimizer, state, scaler=self.accelerator.scaler))
            self.writing.start(lambda: write(files))

        def write(files: dict[str, bytes]) -> None:
            run.check_place()
            save_checkpoint(folder, step, files, run=run.identity)
            prune_checkpoints(folder, keep=steps)

        on_main(save)

    def _resume(self) -> Checkpoint | None:
        """Restore the newest checkpoint if the run is resumed, and return it."""
        if self.run is None:
            return None
        if not self.run.resume:
            if self.run.checkpoints.is_dir():  # left by an earlier training in this folder
                on_main(partial(prune_checkpoints, self.run.checkpoints, keep=()))
            return None
        found = latest_checkpoint(self.run.checkpoints, self.run.identity)
        checkpoint = None
        if found is None:
            logger.info("no checkpoint in %s: starting at step 0", self.run.checkpoints)
        else:
            checkpoint, best = found
            self.state = restore_weights(checkpoint, self.model.network, self.names, self.accelerator.scaler)
            if best is not None:
                self.best = best.weights
            self.max_tokens = min(self.max_tokens, self.state.micro_batch_tokens or self.max_tokens)
            end = ", where training stopped early: nothing is left to train" if self.state.is_stopped else ""
            logger.info("resuming after step %d%s", self.state.step, end)
        steps = self.accelerator.gather(torch.tensor([self.state.step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ResourceError(
                f"The processes would resume after different steps ({steps}). Put --output-dir on a disk that every "
                "machine can read."
            )
        return checkpoint

    def _keep_best(self) -> None:
        """Load the best weights into the model; without a validation split it keeps the last ones."""
        if self.best:
            load_tensors(self.model.network, self.names, self.best)
            step, value = self.state.best_step or 0, self.state.best_value
            line = "kept the model of step %d (epoch %.4g): best validation %s %.4f"
            metric = selection_metric(self.model.task, self.config)
            logger.info(line, step, step / self.steps_per_epoch, metric, value)
