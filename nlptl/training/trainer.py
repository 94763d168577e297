"""Trainer: fit and evaluate, on one process or many."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nlptl.config import TrainingConfig
from nlptl.data.sources import Examples
from nlptl.errors import ConfigError
from nlptl.evaluation.metrics import LOWER_IS_BETTER, Scores
from nlptl.evaluation.report import class_table, score_table
from nlptl.model.classifier import Classifier
from nlptl.model.seeding import one_at_a_time
from nlptl.tasks.decision_checks import check_held_out, fitted_on_few, unmet
from nlptl.tasks.regression import Regression
from nlptl.tasks.task import Task
from nlptl.training.cache import FeatureCache
from nlptl.training.checkpoint import saved_steps
from nlptl.training.costs import count_parameters, peak_memory, restart_peak_memory
from nlptl.training.devices import on_main, open_accelerator
from nlptl.training.encoding import FrozenEncoder
from nlptl.training.estimate import Estimate, check_disk, estimate_training, with_seconds
from nlptl.training.inputs import Inputs, encoder_sha256, facts, logits_of, prepare_inputs, token_budget
from nlptl.training.loop import Loop
from nlptl.training.peers import peer_errors
from nlptl.training.plan import Plan, describe_stage, plan_training, training_table
from nlptl.training.run import Run
from nlptl.training.tracking import OutsideTracker, check_tracker
from nlptl.values import Seed, checked

logger = logging.getLogger(__name__)

CLASSES_SHOWN = 30


@dataclass(frozen=True)
class Evaluation:
    """The targets of a split and the logits that the model predicts for it, both in the form of the task."""

    examples: Examples
    targets: np.ndarray
    logits: torch.Tensor
    seconds: float | None = None
    """Duration of the prediction; None if the features came from the cache."""


class Trainer:
    """Trains and evaluates a `Classifier`.

    The gradient of a step depends only on its `batch_size` examples, not on micro-batches, padding or processes.
    """

    @checked
    def __init__(
        self, model: Classifier, config: TrainingConfig, *, output_dir: str | Path | Run | None = None, seed: Seed = 0
    ) -> None:
        """Prepare to train `model`.

        Args:
            model: The model, which is trained in place.
            config: Settings of the training.
            output_dir: Folder of the run; refused if it already holds one (`Run.open` resumes or overwrites it). None:
                nothing is written.
            seed: Seeds the order of examples and dropout.

        Raises:
            ConfigError: If the folder already holds a run, the device does not support the precision, or the tracker is
                not installed.
        """
        self.model = model
        self.config = config
        if config.track is not None:
            check_tracker(config.track)
        self.seed = seed
        with one_at_a_time:  # Accelerate keeps its state for the whole process
            self.accelerator = open_accelerator(config.mixed_precision)
        self.run = Run.open(output_dir, config) if isinstance(output_dir, str | Path) else output_dir
        self.cache = FeatureCache(gigabytes=config.cache_size) if config.cache else None
        self.outside: OutsideTracker | None = None
        self.train_targets: np.ndarray | None = None
        self.evaluations: dict[str, Evaluation] = {}  # the latest one of each split, by name

    @checked
    @peer_errors()
    def fit(self, train: Examples, *, validation: Examples | None = None) -> None:
        """Train, and keep the weights with the best score on `validation`; without it, the last ones.

        With an `output_dir`, it writes a checkpoint at every evaluation, and at the end the model and the validation
        scores.

        Raises:
            ConfigError: If a setting contradicts the model, the data or the run to resume.
            DataError: If a split is empty, has no labels, or has a label that the model does not know.
            UntrustedFileError: If the run to resume has only damaged checkpoints.
            NonFiniteError: If a loss or a gradient is NaN or infinite; the step is not taken.
            ResourceError: If there is not enough memory for the longest text, or disk space for checkpoints and model.
            PeerLostError: If another process is lost, or does not answer for `NLPTL_PEER_TIMEOUT` seconds.
        """
        with self._trained_alone():
            self._fit(train, validation)

    def _fit(self, train: Examples, validation: Examples | None) -> None:
        started = time.monotonic()
        restart_peak_memory(self.accelerator.device)
        if self.config.track is not None:
            self.end_tracking()
            self.outside = OutsideTracker(self.config.track, self.run)
        plan, estimate, inputs, held_out, encoder = self._prepare(train, validation)
        is_continued = self.run is not None and self.run.resume and bool(saved_steps(self.run.checkpoints))
        logger.info("%s", estimate.describe())
        self.train_targets = inputs.targets
        self.model.task = self.model.task.untuned()
        if isinstance(self.model.task, Regression):  # the model learns targets with mean 0 and variance 1
            self.model.rescale(self.model.task.from_examples(train))
        if self.run is not None:
            on_main(partial(check_disk, self.run.path, estimate.disk))
            derived = {"learning_rates": plan.learning_rates, "micro_batch_tokens": estimate.max_tokens}
            self.run.record_data(
                facts(self.model, inputs, held_out, seed=self.seed, encoder_sha256=encoder.sha256, **derived)
            )
        if self.model.head_is_fitted:
            if self.outside is not None:
                self.outside.start(first_step=0)
            self._fit_head(encoder.encode(inputs))
        else:
            loop = Loop(
                self.model,
                self.config,
                self.accelerator,
                self.run,
                self.outside,
                plan.stages,
                self.seed,
                estimate.max_tokens,
                encoder,
            )
            loop.train(inputs, held_out)
        evaluation = None
        if held_out is not None:
            evaluation = self._run(held_out)
            untuned = self.model.task.untuned()
            self.model.task = untuned.tuned(evaluation.targets, evaluation.logits, self.config)
            self._log_choices(evaluation, untuned)
        if self.run is not None:
            self.run.write_model(self.model)
            seconds, peak = time.monotonic() - started, peak_memory(self.accelerator.device)
            counts = count_parameters(self.model.network)
            self.run.record_training_costs(seconds, peak, counts, is_continued=is_continued)
        if evaluation is not None:
            self._score(evaluation)

    @checked
    @peer_errors()
    def estimate(self, train: Examples, *, validation: Examples | None = None) -> Estimate:
        """Log what `fit` would train, the learning rates and estimated costs; nothing is trained or written.

        Returns:
            Memory and disk space in bytes, computed from the numbers of parameters and tokens, and seconds, estimated
            by timing one micro-batch.

        Raises:
            ConfigError: As in `fit`.
            DataError: As in `fit`.
            ResourceError: If there is not enough memory for a single text.
        """
        transfer = self.model.transfer
        with self._trained_alone():
            try:
                plan, estimate, inputs, held_out, encoder = self._prepare(train, validation)
                if plan.stages:
                    logger.info("\n%s\n", training_table(self.model, plan))
                for stage in plan.stages if len(plan.stages) > 1 else []:
                    self.model.freeze(transfer.freeze, train_only=transfer.train_only, top=stage.top)
                    line = describe_stage(self.model, self.config, stage, plan.stages)
                    logger.info("%s: %s", stage.describe(), line)
                splits = [split for split in (inputs, held_out) if split is not None]
                if self.model.features_are_constant:
                    splits = [split for split in splits if not encoder.has(split)]
                estimate = with_seconds(estimate, self.model, self.config, splits, self.accelerator)
            finally:
                # The plan has set it for the last stage.
                self.model.freeze(transfer.freeze, train_only=transfer.train_only)
        logger.info("%s", estimate.describe())
        return estimate

    @checked
    @peer_errors()
    def evaluate(self, examples: Examples) -> Scores:
        """Score the model on `examples`, each exactly once, with 95 % intervals, and log a table of the scores.

        With an `output_dir`, it adds the scores to `scores.json`, and for the test split writes `predictions.csv`.

        Raises:
            DataError: If the split is empty, has no labels, or has a label that the model does not know.
        """
        self.model.to(self.accelerator.device)
        self.model.is_quick = self.config.quick_layers
        inputs = prepare_inputs(self.model, examples, self.run, cache=self.cache)
        with self.model.lock:
            task, evaluation = self.model.task, self._run(inputs)
        outputs = task.outputs(evaluation.logits)
        scores, baseline = self._score(evaluation)
        table = score_table(scores, split=examples.split, baseline=baseline, baseline_name=task.baseline_name)
        logger.info("\n%s", table)
        if doubts := task.doubts(inputs.targets, outputs) or _not_better(task, scores, baseline):
            logger.warning("%s: %s", examples.split, doubts)
        is_short = scores.per_class and len(scores.per_class) <= CLASSES_SHOWN
        if is_short and (len(task.names) > 2 or isinstance(task, Regression)):
            logger.info("\n%s", class_table(scores))
        for remark in task.remarks(inputs.targets, evaluation.logits):
            logger.info("%s: %s", examples.split, remark)
        if self.run is not None and examples.split == "test":
            self.run.record_test_costs(evaluation.seconds, num_texts=len(examples))
            columns = task.columns(outputs, examples.texts, examples.texts, name="predicted")
            self.run.write_predictions(examples, columns)
            flags = "--input pairs.csv --pair-column COLUMN" if self.model.reads_pairs else '--text "..."'
            folder = self.run.path
            logger.info("\nSaved the run in %s. Try it: nlptl predict %s %s", folder, folder / "model", flags)
        return scores

    def end_tracking(self) -> None:
        """Close the tracker. `fit` leaves it open for the scores of `evaluate`."""
        if self.outside is not None:
            self.outside.finish()

    @contextmanager
    def _trained_alone(self) -> Iterator[None]:
        """Keep other threads from using the model, and leave it in eval mode, also after an error."""
        with self.model.lock:
            try:
                yield
            finally:
                self.model.eval()

    def _prepare(
        self, train: Examples, validation: Examples | None
    ) -> tuple[Plan, Estimate, Inputs, Inputs | None, FrozenEncoder]:
        """Return the plan, the estimate, the splits and the encoder, with which training starts."""
        self.model.onnx = None  # it has the weights from before
        self.model.checkpoint_gradients(self.config.gradient_checkpointing)
        self.model.leave_padding_out(self.config.padding_free)
        self.model.is_quick = self.config.quick_layers
        plan = plan_training(self.model, self.config)
        if validation is None and self.config.early_stopping is not None:
            raise ConfigError(
                "early_stopping needs a validation split. Pass validation= to fit, or leave early_stopping out."
            )
        if validation is None:
            check_held_out(self.config)
        logger.info(self.model.describe_training())
        self.model.to(self.accelerator.device)
        inputs = prepare_inputs(self.model, train, self.run, cache=self.cache)
        held_out = None if validation is None else prepare_inputs(self.model, validation, self.run, cache=self.cache)
        steps_before = saved_steps(self.run.checkpoints) if self.run is not None and self.run.resume else []
        estimate = estimate_training(
            self.model,
            self.config,
            [inputs] if held_out is None else [inputs, held_out],
            self.accelerator,
            max_tokens=token_budget(
                inputs,
                self.config.micro_batch_tokens,
                self.accelerator.device,
                padding_free=self.model.leaves_padding_out and not self.config.gradient_checkpointing,
            ),
            first_step=max(steps_before, default=0),
        )
        return plan, estimate, inputs, held_out, self._encoder()

    def _log_choices(self, evaluation: Evaluation, untuned: Task) -> None:
        for remark in self.model.task.remarks(evaluation.targets, evaluation.logits):
            logger.info("%s (fitted on this split): %s", evaluation.examples.split, remark)
        for line in unmet(self.config, self.model.task):
            logger.warning(line)
        if few := fitted_on_few(self.config, untuned, self.model.task, num_texts=len(evaluation.examples)):
            logger.warning("%s: %s", evaluation.examples.split, few)

    def _encoder(self) -> FrozenEncoder:
        return FrozenEncoder(self.model, self.accelerator, self.cache, encoder_sha256(self.model))

    def _fit_head(self, inputs: Inputs) -> None:
        from nlptl.training.closed_form import fit_head  # scikit-learn takes half a second to import

        assert inputs.features is not None, "plan_training refuses closed-form heads over an encoder that trains"
        logger.info("fitting a %s head with scikit-learn", self.model.head.head)
        fit_head(self.model, inputs.features, inputs.targets, class_weights=self.config.class_weights)

    def _run(self, inputs: Inputs) -> Evaluation:
        """Run the model on a split, with the features of a frozen encoder from the cache if they are there."""
        started, is_cached = time.monotonic(), False
        if self.model.features_are_constant:
            encoder = self._encoder()
            is_cached = encoder.has(inputs)
            started = time.monotonic()
            inputs = encoder.encode(inputs)
        logits = logits_of(self.model, inputs, self.accelerator)
        seconds = None if is_cached else time.monotonic() - started
        evaluation = Evaluation(inputs.examples, inputs.targets, logits, seconds)
        self.evaluations[inputs.examples.split] = evaluation
        return evaluation

    def _score(self, evaluation: Evaluation) -> tuple[Scores, Scores | None]:
        task, targets, baseline = self.model.task, evaluation.targets, None
        scores = task.score(targets, task.outputs(evaluation.logits), seed=self.seed)
        if self.train_targets is not None:
            baseline = task.baseline(targets, train_targets=self.train_targets, seed=self.seed)
        if self.outside is not None:
            values = {f"final/{evaluation.examples.split}_{name}": score.value for name, score in scores.items()}
            self.outside.log(values)
        if self.run is not None:
            self.run.write_scores(evaluation.examples.split, scores, baseline, baseline_name=task.baseline_name)
        return scores, baseline


def _not_better(task: Task, scores: Scores, baseline: Scores | None) -> str | None:
    """Return a warning if the main score is not better than the baseline, else None."""
    name = task.metrics[0]
    if baseline is None:
        return None
    gain = scores[name].value - baseline[name].value
    if (-gain if name in LOWER_IS_BETTER else gain) > 0:
        return None
    return (
        f"{name} is no better than the {task.baseline_name}: train for more steps, with another --learning-rate, or on "
        "more examples"
    )
