"""The loop: stages, epochs, steps; evaluation, checkpoints, and going on from one."""

import gc
import logging
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator

from nlptl.config import TrainingConfig
from nlptl.data.batches import global_batches
from nlptl.errors import NonFiniteError, ResourceError
from nlptl.evaluation.metrics import LOWER_IS_BETTER
from nlptl.model.classifier import Classifier
from nlptl.model.quick import quick_layers
from nlptl.training.cache import FeatureCache
from nlptl.training.checkpoint import (
    Background,
    Checkpoint,
    latest_checkpoint,
    pack,
    prune_checkpoints,
    save_checkpoint,
)
from nlptl.training.devices import on_main
from nlptl.training.features import precompute
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


class Loop:
    """One training, from its first stage to its last; at the end the model has the weights that are kept."""

    def __init__(
        self,
        model: Classifier,
        config: TrainingConfig,
        accelerator: Accelerator,
        run: Run | None,
        *,
        stages: list[Stage],
        seed: int,
        max_tokens: int,
        cache: FeatureCache | None,
        encoder_sha256: str,
        outside: OutsideTracker | None = None,
    ) -> None:
        self.model, self.config, self.accelerator, self.run = model, config, accelerator, run
        self.stages, self.seed, self.max_tokens = stages, seed, max_tokens
        self.cache, self.encoder_sha256, self.outside = cache, encoder_sha256, outside
        # Each stage trains all that the one before it does, so that this is all that ever trains.
        self.names = frozenset(name for name, p in model.network.named_parameters() if p.requires_grad)
        self.state = State()
        self.best: dict[str, torch.Tensor] = {}
        self.writing = Background()

    def train(self, inputs: Inputs, held_out: Inputs | None) -> None:
        """Train through all stages, and keep the weights with the best score on `held_out`, or the last ones."""
        self.model.zero_grad()  # of a training that was interrupted in the middle of a step
        frozen, train_only = self.model.transfer.freeze, self.model.transfer.train_only
        checkpoint = self._resume()
        steps_per_epoch = -(-len(inputs) // self.config.batch_size)
        if self.outside is not None:
            self.outside.start(first_step=self.state.step)
        tracker = Tracker(
            None if self.run is None else self.run.path / "metrics.jsonl",
            num_steps=self.config.num_epochs * steps_per_epoch,
            first_step=self.state.step,
            is_main_process=self.accelerator.is_main_process,
            outside=self.outside,
        )
        try:
            with tracker:
                for stage in self.stages:
                    end = (stage.first_epoch + stage.num_epochs) * steps_per_epoch
                    if self.state.step < end and not self.state.is_stopped:
                        self.model.freeze(frozen, train_only=train_only, top=stage.top)
                        if len(self.stages) > 1:
                            line = describe_stage(self.model, self.config, stage, self.stages)
                            tracker.say(f"{stage.describe()}: {line}")
                        self._train_stage(stage, inputs, held_out, checkpoint, tracker, steps_per_epoch=steps_per_epoch)
                        checkpoint = None
                on_main(self.writing.finish)
        except BaseException as error:
            if type(error) is not KeyboardInterrupt or not is_asked_to_end():  # a second one ends at once
                self.writing.wait()
            if self.outside is not None:
                self.outside.finish()
            raise
        finally:
            self.model.freeze(frozen, train_only=train_only)
        self._keep_best(steps_per_epoch)

    def _train_stage(
        self,
        stage: Stage,
        inputs: Inputs,
        held_out: Inputs | None,
        checkpoint: Checkpoint | None,
        tracker: Tracker,
        *,
        steps_per_epoch: int,
    ) -> None:
        accelerator, model, config = self.accelerator, self.model, self.config
        once = partial(
            precompute,
            model,
            accelerator=accelerator,
            cache=self.cache,
            dtype=config.cache_dtype,
            encoder_sha256=self.encoder_sha256,
        )
        inputs = once(inputs, num_passes=stage.num_epochs)
        if held_out is not None:
            every = config.eval_steps or steps_per_epoch
            held_out = once(held_out, num_passes=stage.num_epochs * steps_per_epoch // every)
        optimizer = build_optimizer(model, config, before_encoder=stage is not self.stages[-1])
        # On one process in full precision Accelerate has nothing to add, and its wrappers take time in every step.
        is_plain = accelerator.num_processes == 1 and accelerator.mixed_precision == "no"
        if is_plain:
            network, prepared = model, optimizer
        else:
            network, prepared = accelerator.prepare(model, optimizer)
            # Encoders' buffers never change; in their exchange a process would wait for one whose memory has run out.
            network.broadcast_buffers = False
        first_step = stage.first_epoch * steps_per_epoch
        if self.state.step == first_step:
            self.state.evaluations_since_best = 0  # What the stage before did not learn is not counted here.
        try:
            if checkpoint is not None and self.state.step > first_step:
                restore_optimizer(optimizer, checkpoint.optimizer, names_by_id(model.network))
            stepper = Stepper(
                model,
                network,
                prepared,
                accelerator,
                config,
                self.seed,
                self.max_tokens,
                model.features_are_constant,
                model.task.objective(config, inputs.targets, inputs.tokens, binary_loss=model.head.binary_loss),
            )
            model.train()
            with stepping() as signals, self._quick_layers():
                self._take_steps(
                    stepper, optimizer, stage, inputs, held_out, tracker, signals, steps_per_epoch=steps_per_epoch
                )
        finally:
            if not is_plain:
                accelerator.unwrap_model(network, keep_fp32_wrapper=False)  # with mixed precision, forward was replaced
                accelerator.free_memory(network, prepared)
            if accelerator.num_processes > 1:
                # A DistributedDataParallel that outlives its process group can hang the process at its end.
                del network, prepared, optimizer
                gc.collect()

    def _quick_layers(self) -> AbstractContextManager[None]:
        # A pass of the model has quick layers, but a layer that is computed once more is so after the pass.
        has_layers = self.model.checkpoints_gradients and not self.model.features_are_constant
        return quick_layers(self.model) if has_layers else nullcontext()

    def _take_steps(
        self,
        stepper: Stepper,
        optimizer: torch.optim.Optimizer,
        stage: Stage,
        inputs: Inputs,
        held_out: Inputs | None,
        tracker: Tracker,
        signals: list[int],
        *,
        steps_per_epoch: int,
    ) -> None:
        config, state = self.config, self.state
        first_step, num_steps = stage.first_epoch * steps_per_epoch, stage.num_epochs * steps_per_epoch
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
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * multiplier
            try:
                done = stepper.take(inputs, indices, step=step, signals=signals)
            except NonFiniteError:
                self._name_rows(inputs, indices, step=step + 1)
                raise
            if stepper.max_tokens < self.max_tokens:
                self.max_tokens = state.micro_batch_tokens = stepper.max_tokens
            state.step = step + 1
            state.loss_sum, state.num_losses = state.loss_sum + done.loss, state.num_losses + 1
            tracker.advance(loss=done.loss)
            if state.step % config.logging_steps == 0:
                rate = optimizer.param_groups[-1]["lr"]
                tracker.record(step=state.step, loss=done.loss, gradient_norm=done.norm, learning_rate=rate)
            is_last = state.step == last_step
            is_evaluated = is_last or state.step % (config.eval_steps or steps_per_epoch) == 0
            if is_evaluated:
                mean = state.loss_sum / state.num_losses
                state.loss_sum, state.num_losses = 0.0, 0
                self._evaluate(held_out, tracker, stage, epoch=state.step / steps_per_epoch, loss=mean)
            is_due = is_evaluated if config.save_steps is None else is_last or state.step % config.save_steps == 0
            is_due = is_due or state.best_step == state.step or state.is_stopped
            # An evaluation takes long enough for a signal to come, and there may be no step after it.
            known = self._all_signals(signals) if is_evaluated else list(done.signals)
            if is_due or any(known):
                self._save(optimizer, is_due=is_due)
            if any(known):
                self._end(known)
            if state.is_stopped:
                break
        if any(known := self._all_signals(signals)):  # since the last evaluation
            self._end(known)

    def _name_rows(self, inputs: Inputs, indices: np.ndarray, *, step: int) -> None:
        """Write to `nonfinite.json` which rows of the data the step was to learn from."""
        if self.run is not None:
            examples = inputs.examples
            rows = [int(examples.rows[i]) for i in indices]
            self.run.write_json("nonfinite.json", {"step": step, "source": examples.source, "rows": rows})

    def _all_signals(self, signals: list[int]) -> list[int]:
        """Return how many processes have got each signal by now; all of them have to ask."""
        counts = torch.tensor(signals, device=self.accelerator.device)
        return list(map(int, self.accelerator.reduce(counts, "sum").tolist()))

    def _end(self, signals: list[int]) -> None:
        """Leave, after the last checkpoint is on disk."""
        on_main(self.writing.finish)
        if self.run is not None and self.accelerator.is_main_process:
            where = (self.state.step, self.run.checkpoints)
            logger.warning("interrupted after step %d: --resume goes on from its checkpoint in %s", *where)
        leave(signals)

    def _evaluate(self, held_out: Inputs | None, tracker: Tracker, stage: Stage, *, epoch: float, loss: float) -> None:
        """Score validation, remember the weights if they are the best so far, decide whether to stop."""
        config, state = self.config, self.state
        weights = trained_tensors(self.model.network, self.names)
        self._check_finite(weights)
        line = f"epoch {epoch:.4g}: loss {loss:.4f}"
        if held_out is None:
            tracker.say(line)
            return
        logits, task = logits_of(self.model, held_out, self.accelerator), self.model.task
        name = selection_metric(task, config)
        is_finite = bool(torch.isfinite(logits).all())
        scores = task.point_scores(held_out.targets, task.outputs(logits)) if is_finite else {name: float("nan")}
        # The head alone may have learned all it can, while the encoder has yet to train.
        patience = config.early_stopping if stage is self.stages[-1] else None
        value = scores[name]
        is_best = state.observe(value, lower_is_better=name in LOWER_IS_BETTER, patience=patience)
        if is_best:
            self.best = {key: tensor.clone() for key, tensor in weights.items()}
        tracker.record(step=state.step, epoch=epoch, loss=loss, **{f"validation_{key}": v for key, v in scores.items()})
        tracker.say(
            f"{line}, validation {name} {value:.4f}"
            + (" (best so far)" if is_best else "")
            + (f"; stopping, no better score in {patience} evaluations" if state.is_stopped else "")
        )

    def _check_finite(self, weights: dict[str, torch.Tensor]) -> None:
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise NonFiniteError(
                f"Expected finite weights, found NaN or infinity in {broken[0]} and {len(broken) - 1} more after step "
                f"{self.state.step}. Neither checkpoint nor model was written. Lower --learning-rate, or use "
                "--mixed-precision no."
            )

    def _save(self, optimizer: torch.optim.Optimizer, *, is_due: bool) -> None:
        """Write a checkpoint in the background; one that is not due stays until the next one is written."""
        if self.run is None:
            return
        run, folder, state = self.run, self.run.checkpoints, self.state
        # Each of the last ones can be resumed from, with the best weights up to there.
        needed = [state.step] if state.best_step is None else [state.step, state.best_step]
        kept = [*state.kept[1 - self.config.keep_last :], needed]
        if is_due:
            state.kept = kept
        step, steps = state.step, {step for needed in kept for step in needed}

        def save() -> None:
            self.writing.finish()  # Memory holds one checkpoint at a time.
            files = pack(self._capture(optimizer))
            self.writing.start(lambda: write(files))

        def write(files: dict[str, bytes]) -> None:
            run.check_place()
            save_checkpoint(folder, step, files, run=run.identity)
            prune_checkpoints(folder, keep=steps)

        on_main(save)

    def _capture(self, optimizer: torch.optim.Optimizer) -> Checkpoint:
        return capture(
            self.model.network,
            self.names,
            optimizer,
            self.state,
            scaler=self.accelerator.scaler,
        )

    def _resume(self) -> Checkpoint | None:
        """Put back the newest checkpoint, if the run is to go on, and return it."""
        if self.run is None:
            return None
        if not self.run.resume:
            self.run.remove_checkpoints()  # of a training before this one, which must not be resumed in its place
            return None
        found = latest_checkpoint(self.run.checkpoints, self.run.identity)
        checkpoint = None
        if found is None:
            logger.info("no checkpoint in %s: starting from the beginning", self.run.checkpoints)
        else:
            checkpoint, best = found
            self.state = restore_weights(checkpoint, self.model.network, self.names, self.accelerator.scaler)
            if best is not None:
                self.best = best.weights
            self.max_tokens = min(self.max_tokens, self.state.micro_batch_tokens or self.max_tokens)
            end = ", where it stopped early: nothing is left to train" if self.state.is_stopped else ""
            logger.info("resuming after step %d%s", self.state.step, end)
        steps = self.accelerator.gather(torch.tensor([self.state.step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ResourceError(
                f"Expected all processes to resume after the same step, found steps {steps}. Put --output-dir on a "
                "disk that every machine sees."
            )
        return checkpoint

    def _keep_best(self, steps_per_epoch: int) -> None:
        """Put the best weights into the model; without a validation split it keeps the last ones."""
        if self.best:
            load_tensors(self.model.network, self.names, self.best)
            step, value = self.state.best_step or 0, self.state.best_value
            line = "kept the model of step %d, epoch %.4g: best validation %s %.4f"
            logger.info(line, step, step / steps_per_epoch, selection_metric(self.model.task, self.config), value)
