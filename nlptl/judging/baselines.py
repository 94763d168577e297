"""Does transfer help? A model beside simpler ones on the same splits: `nlptl baselines`."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nlptl.config import (
    BaselineRow,
    ClassificationConfig,
    ClassWeights,
    DataConfig,
    HeadConfig,
    SelectionMetric,
    TrainingConfig,
    TransferConfig,
    to_json,
)
from nlptl.data.sources import Examples
from nlptl.data.splits import Splits
from nlptl.data.writers import check_output, write_json
from nlptl.errors import ConfigError
from nlptl.evaluation.comparison import paired_bootstrap, randomization_test
from nlptl.evaluation.metrics import Scores, sign_of
from nlptl.judging.predictions import Predictions, scorer
from nlptl.judging.run_files import RunFiles
from nlptl.judging.words import fit_words, name_of_words
from nlptl.model.adaptation import start_anew
from nlptl.tasks.kinds import make_task
from nlptl.tasks.task import Task
from nlptl.training.assembly import classifier_of, splits_of
from nlptl.training.costs import count_parameters
from nlptl.training.plan import check_metric, selection_metric
from nlptl.training.trainer import Trainer
from nlptl.values import Count, Positive, Seed
from nlptl.wording import align_table

ROWS: tuple[BaselineRow, ...] = ("majority", "words", "random", "frozen", "fine-tuned")
NAMES = {"random": "random weights, fine-tuned", "frozen": "frozen encoder", "fine-tuned": "fine-tuned"}
SHARED = (
    *("batch_size", "selection_metric", "micro_batch_tokens", "mixed_precision", "cache", "cache_size"),
    *("class_weights", "sampling", "loss", "focal_gamma", "logit_adjustment"),
)
"""Settings that a run shares with baselines trained in another way: those of the device, and those for rare labels,
whose effect would otherwise count as a gain from transfer."""

LEVEL = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig(DataConfig):
    """Measure whether transfer helps: compare the encoder with models that need no pretraining, on the same splits.

    majority: the most frequent label. words: TF-IDF with logistic regression (ridge regression for numbers, the most
    frequent tag of each word for tokens). random: the same encoder with random weights, trained like the fine-tuned
    one. frozen: a head over the frozen encoder, 10 epochs; features cached by an earlier run are used. fine-tuned: the
    whole encoder. Each is chosen on validation.
    """

    dataset: str
    """A file, a folder with train / validation / test files, a Hub id, or a sample."""
    rows: tuple[BaselineRow, ...] = ROWS
    """Models to train and compare."""
    model: str = "sample:minilm"
    """Pretrained encoder: sample:minilm, a local folder, or a Hub id (name@revision pins it)."""
    max_length: Count | None = None
    """Tokens of each text that the encoder reads. None: 256, or fewer if the encoder takes fewer."""
    num_epochs: Count = 3
    """Epochs of training the encoder, with pretrained and with random weights."""
    learning_rate: Positive | None = None
    """Peak learning rate for training the encoder. None: 5e-5."""
    batch_size: Count = 32
    """Examples per optimizer step."""
    class_weights: ClassWeights = None
    """Weights of the classes in the loss of each row: balanced, or one number for each class. None: none."""
    selection_metric: SelectionMetric | None = None
    """Score to compare, which also chooses on validation. None: the default of the task, such as accuracy."""
    micro_batch_tokens: Count | None = None
    """Tokens per forward pass. None: chosen by device."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass on devices that support it."""
    seed: Seed = 0
    """Seed of new weights, the order of examples and dropout."""
    output: Path | None = None
    """JSON file for the table; an existing one is replaced. None: only print the table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rows:
            raise ConfigError(f"--rows is empty. Name one or more of {', '.join(ROWS)}, or leave --rows out.")


@dataclass(frozen=True)
class Row:
    """A model and its scores on test.

    `task` includes choices made on validation, such as thresholds; `outputs` are its outputs for test.
    """

    name: str
    task: Task
    outputs: np.ndarray
    scores: Scores
    on_validation: dict[str, float]
    train_seconds: float | None
    has_transfer: bool = False
    parameters: int = 0
    trainable_parameters: int = 0


@dataclass(frozen=True)
class Gain:
    """How much better the best row with transfer is than the best one without, on the same test examples."""

    row: str
    over: str
    difference: float
    """In units of the metric; positive is better, also for a metric where lower is better."""
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Baselines:
    """The rows, the metric they are compared by, and the gain from transfer."""

    metric: str
    rows: tuple[Row, ...]
    gain: Gain | None
    warning: str | None

    def to_json(self) -> dict[str, Any]:
        """Return strict JSON."""
        shown = ("name", "scores", "train_seconds", "parameters", "trainable_parameters")
        rows = [{name: getattr(row, name) for name in shown} for row in self.rows]
        return to_json({"metric": self.metric, "rows": rows, "gain": self.gain, "warning": self.warning})


def compare_baselines(config: BaselinesConfig) -> Baselines:
    """Train the requested rows, log the comparison table and the gain from transfer, and write `config.output`.

    Raises:
        ConfigError: If settings contradict each other or the task.
        DataError: If the data cannot be read as texts with targets of the task.
        NonFiniteError: If a training diverges.
        ResourceError: If memory runs out, the model is out of reach, or the output cannot be written.
    """
    if config.output is not None:
        check_output(config.output, suffixes=(".json",))
    of_run, of_training = ({each.name for each in fields(cls)} for cls in (ClassificationConfig, TrainingConfig))
    given = vars(config)
    whole = ClassificationConfig(
        **{name: value for name, value in given.items() if name in of_run},
        train=TrainingConfig(**{name: value for name, value in given.items() if name in of_training}),
    )
    splits = splits_of(whole)
    baselines = _judge(_train_rows(whole, splits, config.rows), splits, whole)
    if config.output is not None:
        write_json(config.output, baselines.to_json())
        logger.info("wrote the table to %s", config.output)
    return baselines


def compare_with_baselines(config: ClassificationConfig, splits: Splits, trainer: Trainer) -> Baselines:
    """Train the baselines, log the comparison table (including this run), and return it.

    A run that trained the whole encoder, or a head over the frozen one, takes the place of that row. `trainer` is that
    of the run, after it has scored validation and test.

    Raises:
        NonFiniteError: If a training diverges.
        ResourceError: If memory runs out.
    """
    kind: BaselineRow | None = None
    if config.transfer == TransferConfig():
        kind = "fine-tuned"
    elif trainer.model.encoder_is_frozen:
        kind = "frozen"
    seconds = None if trainer.run is None else RunFiles(trainer.run.path).costs.get("train_seconds")
    own = _trained_row("this run" if kind is None else f"{NAMES[kind]} (this run)", trainer, splits, seconds)
    rows = _train_rows(config, splits, [row for row in ROWS if row != kind])
    return _judge([*rows, own], splits, config)


def _train_rows(config: ClassificationConfig, splits: Splits, wanted: Sequence[BaselineRow]) -> list[Row]:
    """Return the wanted rows. The fine-tuned row uses `config` unchanged if that trains the whole encoder."""
    kept = {name: getattr(config.train, name) for name in SHARED}
    frozen = replace(config, head=HeadConfig(), transfer=TransferConfig(freeze="encoder"), train=TrainingConfig(**kept))
    whole = replace(frozen, transfer=TransferConfig(), train=TrainingConfig(num_epochs=3, **kept))
    if config.transfer == TransferConfig():
        whole = config
    check_metric(make_task(splits, label_order=config.label_order), config.train)
    rows = []
    for kind in sorted(set(wanted), key=ROWS.index):
        if kind == "majority":
            row = _count_targets(splits, config)
        elif kind == "words":
            row = _fit_words(splits, config)
        else:
            row = _train_encoder(kind, frozen if kind == "frozen" else whole, splits)
        rows.append(row)
        logger.info("%s: %.1f s", row.name, row.train_seconds or 0.0)
    return rows


def _train_encoder(kind: BaselineRow, config: ClassificationConfig, splits: Splits) -> Row:
    epochs = "1 epoch" if config.train.num_epochs == 1 else f"{config.train.num_epochs} epochs"
    logger.info("training %s: %s examples, %s", NAMES[kind], f"{len(splits.train):,}", epochs)
    train = replace(config.train, track=None)
    start = time.monotonic()
    with _quiet():
        model = classifier_of(config, splits)
        if kind == "random":
            start_anew(model.network, seed=config.seed)
        trainer = Trainer(model, train, seed=config.seed)
        trainer.fit(splits.train, validation=splits.validation)
        seconds = time.monotonic() - start
        trainer.evaluate(splits.test)
    return _trained_row(NAMES[kind], trainer, splits, seconds, has_transfer=kind != "random")


def _trained_row(
    name: str, trainer: Trainer, splits: Splits, seconds: float | None, *, has_transfer: bool = True
) -> Row:
    task = trainer.model.task
    counts: dict[str, Any] = count_parameters(trainer.model.network)
    outputs = [task.outputs(trainer.evaluations[split].logits) for split in ("validation", "test")]
    row = _row(name, task, splits, outputs, seconds, trainer.seed)
    return replace(row, has_transfer=has_transfer, **counts)


def _fit_words(splits: Splits, config: ClassificationConfig) -> Row:
    task, train, start = make_task(splits, label_order=config.label_order), config.train, time.monotonic()
    name, weights = name_of_words(task), train.class_weights
    logger.info("fitting %s", name)
    if weights is None and (
        train.sampling == "balanced" or train.logit_adjustment > 0 or train.loss != "cross_entropy"
    ):
        weights = "balanced"  # the counterpart, for this model, of how the training handles rare labels
    fitted = fit_words(task, splits, metric=selection_metric(task, train), class_weights=weights)
    task = task.tuned(task.targets(splits.validation), fitted.validation, train)
    outputs = [task.outputs(fitted.validation), task.outputs(fitted.test)]
    row = _row(name, task, splits, outputs, time.monotonic() - start, config.seed)
    return replace(row, parameters=fitted.parameters, trainable_parameters=fitted.parameters)


def _count_targets(splits: Splits, config: ClassificationConfig) -> Row:
    task, start = make_task(splits, label_order=config.label_order), time.monotonic()
    train, *others = (task.targets(splits[split]) for split in ("train", "validation", "test"))
    task, output = task.constant(train)
    outputs = [np.tile(output, (len(task.flat(targets)), 1)) for targets in others]
    return _row(task.baseline_name, task, splits, outputs, time.monotonic() - start, config.seed)


def _row(name: str, task: Task, splits: Splits, outputs: Sequence[np.ndarray], seconds: float | None, seed: int) -> Row:
    validation, test = outputs
    scores = task.score(task.targets(splits.test), test, seed=seed)
    on_validation = task.point_scores(task.targets(splits.validation), validation)
    return Row(name, task, test, scores, on_validation, seconds)


def _judge(rows: Sequence[Row], splits: Splits, config: ClassificationConfig) -> Baselines:
    task = rows[0].task
    metric = selection_metric(task, config.train)
    logger.info("\n%s\n", baselines_table(rows, list(dict.fromkeys((metric, *task.metrics)))[:2]))
    gain, warning = None, None
    sign = sign_of(metric)
    sides = [[row for row in rows if row.has_transfer == is_transfer] for is_transfer in (True, False)]
    if all(sides):
        # Both are chosen on validation: the score of the best row on test would be too good.
        best, other = (max(side, key=lambda row: sign * row.on_validation[metric]) for side in sides)
        gain = _gain(best, other, metric, splits.test, seed=config.seed)
        logger.info("%s", describe_gain(gain, metric))
        warning = doubt_gain(gain)
        if warning is not None:
            logger.warning("%s", warning)
    return Baselines(metric, tuple(rows), gain, warning)


def baselines_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Return a table with a line for each row: scores on test with 95 % intervals, seconds, numbers of parameters."""
    header = [cell for metric in metrics for cell in (metric, "95 % interval")]
    lines = [["test", *header, "seconds", "parameters", "trainable"]]
    for row in rows:
        scores = [row.scores[metric] for metric in metrics]
        cells = [cell for each in scores for cell in (f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}")]
        seconds = "-" if row.train_seconds is None else f"{row.train_seconds:.1f}"
        lines.append([row.name, *cells, seconds, f"{row.parameters:,}", f"{row.trainable_parameters:,}"])
    return align_table(lines)


def _gain(best: Row, other: Row, metric: str, test: Examples, *, seed: int) -> Gain:
    tables = [_predictions(row, test) for row in (best, other)]
    one, two = (scorer(table).weighted for table in tables)
    found = paired_bootstrap(one, two, len(test), seed=seed)[metric]
    p = randomization_test(scorer(*tables).weighted, len(test), seed=seed)[metric]
    sign = sign_of(metric)
    low, high = sorted((sign * found.low, sign * found.high))
    return Gain(best.name, other.name, sign * found.value, low, high, p)


def _predictions(row: Row, test: Examples) -> Predictions:
    """Return the content that `predictions.csv` of a run would have."""
    columns = row.task.columns(row.outputs, test.texts, test.texts, name="predicted")
    cells = {
        name: [json.dumps(cell) if isinstance(cell, list) else cell for cell in column]
        for name, column in columns.items()
    }
    return Predictions(row.task.kind, list(map(str, test.rows)), test.labels, cells)


def describe_gain(gain: Gain, metric: str) -> str:
    """Return a sentence on the gain from transfer."""
    p = f"p = {gain.p:.2g}" if gain.p >= 0.001 else "p < 0.001"
    gains, over = ("gains", "over") if gain.difference >= 0 else ("loses", "to")
    return (
        f"{gain.row} {gains} {abs(gain.difference):.4f} {metric} {over} {gain.over}: 95 % interval of the gain "
        f"{gain.low:+.4f} to {gain.high:+.4f}, {p} (the best with and the best without transfer, by validation)"
    )


def doubt_gain(gain: Gain) -> str | None:
    """Return a warning unless transfer clearly helps; None if it does."""
    if gain.low > 0 and gain.p <= LEVEL:
        return None
    way_out = "Try another encoder or more examples, or use the simpler model."
    if gain.high < 0 and gain.p <= LEVEL:
        return f"negative transfer: {gain.row} is worse than {gain.over}. {way_out}"
    return f"no gain: this test set does not show that {gain.row} is better than {gain.over}. {way_out}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Log only warnings of nlptl inside the block."""
    nlptl = logging.getLogger("nlptl")
    level = nlptl.level
    nlptl.setLevel(logging.WARNING)
    try:
        yield
    finally:
        nlptl.setLevel(level)
