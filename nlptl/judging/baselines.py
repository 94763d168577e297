"""Did transfer help? A model beside what was learned without one, on the same splits: `nlptl baselines`."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from nlptl.config import (
    BaselineRow,
    ClassificationConfig,
    ClassWeights,
    Columns,
    HeadConfig,
    SelectionMetric,
    TaskKind,
    TrainingConfig,
    TransferConfig,
)
from nlptl.data.sources import Examples
from nlptl.data.splits import Splits
from nlptl.data.writers import check_output, write_json
from nlptl.errors import ConfigError
from nlptl.evaluation.comparison import paired_bootstrap, randomization_test
from nlptl.evaluation.metrics import LOWER_IS_BETTER, Scores
from nlptl.json_files import read_object
from nlptl.judging.predictions import Predictions, weighted_scores
from nlptl.judging.words import fit_words, name_of_words
from nlptl.model.reinit import start_anew
from nlptl.tasks.kinds import make_task
from nlptl.tasks.task import Task
from nlptl.training.assembly import classifier_of, splits_of
from nlptl.training.costs import count_parameters
from nlptl.training.plan import check_metric, selection_metric
from nlptl.training.trainer import Trainer
from nlptl.values import Count, Positive, Range
from nlptl.wording import align_table

ROWS: tuple[BaselineRow, ...] = ("majority", "words", "random", "frozen", "fine-tuned")
NAMES = {"random": "random weights, fine-tuned", "frozen": "frozen encoder", "fine-tuned": "fine-tuned"}
SHARED = (
    *("batch_size", "selection_metric", "micro_batch_tokens", "mixed_precision", "cache", "cache_size"),
    *("class_weights", "sampling", "loss", "focal_gamma", "logit_adjustment"),
)
"""Settings of a training that its baselines have too, where they are trained in another way: what the device holds, and
what is done for rare labels, without which a gain could be that of the weights alone."""

LEVEL = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig(Columns):
    """Whether transfer helps on a data set: the encoder beside what needs no pretraining, on the same splits.

    majority: the most frequent label. words: TF-IDF with logistic regression (ridge regression for scores, the most
    frequent tag of a word for tokens). random: the same encoder with random weights, trained as the fine-tuned one is.
    frozen: a head over the frozen encoder, 10 epochs, in fewer seconds where an earlier run has left its features in
    the cache. fine-tuned: all of it. Each is chosen on validation.
    """

    dataset: str
    """A file, a folder with train / validation / test files, a Hub id, or a sample."""
    rows: tuple[BaselineRow, ...] = ROWS
    """What is trained and compared."""
    model: str = "sample:minilm"
    """Pretrained encoder: sample:minilm, a local folder, or a Hub id (name@revision pins it)."""
    task: TaskKind = "single_label"
    """What the labels are, as in training."""
    label_order: tuple[str, ...] = ()
    """The labels of an ordinal task from the lowest to the highest. Empty: they are numbers."""
    drop_empty: bool = False
    """Leave out the texts of all splits that are empty or blank."""
    deduplicate: bool = False
    """Drop from train the texts that are also in validation or test, and copies."""
    max_examples: Annotated[int, Range(at_least=2)] | None = None
    """Keep at most this many examples of each split, for a first try."""
    max_length: Count | None = None
    """Tokens of a text that the encoder reads. None: 256, or fewer if the encoder takes fewer."""
    num_epochs: Count = 3
    """Epochs in which the encoder trains, with pretrained and with random weights."""
    learning_rate: Positive | None = None
    """Peak learning rate where the encoder trains. None: 5e-5."""
    batch_size: Count = 32
    """Examples per optimizer step."""
    class_weights: ClassWeights = None
    """Weights of the classes in the loss of each row: balanced, or one number for each class. None: none."""
    selection_metric: SelectionMetric | None = None
    """Score that is compared, and that chooses on validation. None: that of the task, such as accuracy."""
    micro_batch_tokens: Count | None = None
    """Tokens that the device forwards at once. None: by the device."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass on devices that have it."""
    seed: int = 0
    """Seeds the new weights, the order of examples and dropout."""
    split_seed: int = 0
    """Seeds what is carved out where a split is missing, and what --max-examples keeps."""
    output: Path | None = None
    """JSON file for the table; one that is there is replaced. None: the table alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rows:
            raise ConfigError(
                f"Expected one row or more of {', '.join(ROWS)}, found none. Name them, or leave --rows out."
            )


@dataclass(frozen=True)
class Row:
    """What was trained or counted, and how it does on test.

    `task` has what was chosen on validation, such as thresholds; `outputs` are those of test, as it gives them.
    """

    name: str
    has_transfer: bool
    task: Task
    outputs: np.ndarray
    scores: Scores
    on_validation: dict[str, float]
    train_seconds: float | None
    parameters: int
    trainable_parameters: int


@dataclass(frozen=True)
class Gain:
    """How much better the best row with transfer is than the best one without, on the same examples of test."""

    row: str
    over: str
    difference: float
    """In units of the metric; above zero is better, whichever way the metric goes."""
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Baselines:
    """The rows, what they are compared by, and whether transfer has helped."""

    metric: str
    rows: tuple[Row, ...]
    gain: Gain | None
    warning: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for strict JSON."""
        return {
            "metric": self.metric,
            "rows": [
                {
                    "name": row.name,
                    "scores": {name: score for name, score in row.scores.to_json().items() if name != "per_class"},
                    "train_seconds": row.train_seconds,
                    "parameters": row.parameters,
                    "trainable_parameters": row.trainable_parameters,
                }
                for row in self.rows
            ],
            "gain": None if self.gain is None else asdict(self.gain),
            "warning": self.warning,
        }


def compare_baselines(config: BaselinesConfig) -> Baselines:
    """Train the rows that are asked for, log the table and what it says of transfer, and write `config.output`.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the data cannot be read as texts with targets of the task.
        NonFiniteError: If a training diverges.
        ResourceError: If memory does not suffice, the model cannot be had, or the output cannot be written.
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
    """Train what a run is compared with, log the table, in which it stands too, and return it.

    A run that has trained the whole encoder, or a head over the frozen one, is that row itself.

    Args:
        config: Settings of the run.
        splits: Its data.
        trainer: What has trained it, and scored validation and test.

    Raises:
        NonFiniteError: If a training diverges.
        ResourceError: If memory does not suffice.
    """
    kind: BaselineRow | None = None
    if config.transfer == TransferConfig():
        kind = "fine-tuned"
    elif trainer.model.encoder_is_frozen:
        kind = "frozen"
    costs = {} if trainer.run is None else read_object(trainer.run.path / "costs.json")
    name = "this run" if kind is None else f"{NAMES[kind]} (this run)"
    own = _trained_row(name, trainer, splits, costs.get("train_seconds"))
    rows = _train_rows(config, splits, [row for row in ROWS if row != kind])
    return _judge([*rows, own], splits, config)


def _train_rows(config: ClassificationConfig, splits: Splits, wanted: Sequence[BaselineRow]) -> list[Row]:
    """Return the rows that are wanted; `config` has settings of a training, of the fine-tuned row if it is one."""
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
    task, counts = trainer.model.task, count_parameters(trainer.model.network)
    validation, test = (task.outputs(trainer.evaluations[split].logits) for split in ("validation", "test"))
    return _row(name, task, splits, validation, test, seconds, seed=trainer.seed, has_transfer=has_transfer, **counts)


def _fit_words(splits: Splits, config: ClassificationConfig) -> Row:
    task = make_task(splits, label_order=config.label_order)
    logger.info("fitting %s", name_of_words(task))
    start = time.monotonic()
    fitted = fit_words(
        task, splits, metric=selection_metric(task, config.train), class_weights=_class_weights(config.train)
    )
    task = task.tuned(task.targets(splits.validation), fitted.validation, config.train)
    validation, test = task.outputs(fitted.validation), task.outputs(fitted.test)
    return _row(
        name_of_words(task),
        task,
        splits,
        validation,
        test,
        time.monotonic() - start,
        seed=config.seed,
        parameters=fitted.parameters,
        trainable_parameters=fitted.parameters,
    )


def _class_weights(config: TrainingConfig) -> ClassWeights:
    """Return the weights that do for words what a training does for rare labels, one way or another."""
    is_for_rare = config.sampling == "balanced" or config.logit_adjustment > 0 or config.loss != "cross_entropy"
    return "balanced" if config.class_weights is None and is_for_rare else config.class_weights


def _count_targets(splits: Splits, config: ClassificationConfig) -> Row:
    start = time.monotonic()
    task = make_task(splits, label_order=config.label_order)
    targets = {split: task.targets(splits[split]) for split in ("train", "validation", "test")}
    task, output = task.constant(targets["train"])
    validation, test = (np.tile(output, (len(task.flat(targets[split])), 1)) for split in ("validation", "test"))
    seconds = time.monotonic() - start
    return _row(task.baseline_name, task, splits, validation, test, seconds, seed=config.seed)


def _row(
    name: str,
    task: Task,
    splits: Splits,
    validation: np.ndarray,
    test: np.ndarray,
    seconds: float | None,
    *,
    seed: int,
    has_transfer: bool = False,
    parameters: int = 0,
    trainable_parameters: int = 0,
) -> Row:
    """Return a scored row, from the outputs of validation and test."""
    scores = task.score(task.targets(splits.test), test, seed=seed)
    on_validation = task.point_scores(task.targets(splits.validation), validation)
    return Row(name, has_transfer, task, test, scores, on_validation, seconds, parameters, trainable_parameters)


def _judge(rows: Sequence[Row], splits: Splits, config: ClassificationConfig) -> Baselines:
    """Log the table and whether transfer has helped, and return it all."""
    task = rows[0].task
    shown = list(dict.fromkeys((selection_metric(task, config.train), *task.metrics)))[:2]
    metric = shown[0]
    logger.info("\n%s\n", baselines_table(rows, shown))
    gain, warning = None, None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    sides = [[row for row in rows if row.has_transfer == is_transfer] for is_transfer in (True, False)]
    if all(sides):
        # Chosen on validation, as everything is; the best on test would be better than it is.
        best, other = (max(side, key=lambda row: sign * row.on_validation[metric]) for side in sides)
        gain = _gain(best, other, metric, splits.test, seed=config.seed)
        logger.info("%s", describe_gain(gain, metric))
        warning = doubt_gain(gain)
    if warning is not None:
        logger.warning("%s", warning)
    return Baselines(metric, tuple(rows), gain, warning)


def baselines_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Return a table with a line for each row: scores on test with 95 % intervals, seconds, numbers of parameters."""
    header = ["test"]
    for metric in metrics:
        header += [metric, "95 % interval"]
    lines = [[*header, "seconds", "parameters", "trainable"]]
    for row in rows:
        cells = [row.name]
        for metric in metrics:
            score = row.scores[metric]
            cells += [f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}"]
        counts = [f"{count:,}" for count in (row.parameters, row.trainable_parameters)]
        seconds = "-" if row.train_seconds is None else f"{row.train_seconds:.1f}"
        lines.append([*cells, seconds, *counts])
    return align_table(lines)


def _gain(best: Row, other: Row, metric: str, test: Examples, *, seed: int) -> Gain:
    tables = [_predictions(row, test) for row in (best, other)]
    one, two = map(weighted_scores, tables)
    found = paired_bootstrap(one, two, len(test), seed=seed)[metric]
    p = randomization_test(weighted_scores(*tables), len(test), seed=seed)[metric]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    low, high = sorted((sign * found.low, sign * found.high))
    return Gain(best.name, other.name, sign * found.value, low, high, p)


def _predictions(row: Row, test: Examples) -> Predictions:
    """Return what `predictions.csv` of a run would hold."""
    columns = row.task.columns(row.outputs, test.texts, test.texts, name="predicted")
    cells = {
        name: [json.dumps(cell) if isinstance(cell, list) else cell for cell in column]
        for name, column in columns.items()
    }
    return Predictions(row.task.kind, list(map(str, test.rows)), test.labels, cells)


def describe_gain(gain: Gain, metric: str) -> str:
    """Return one sentence on what transfer gains."""
    p = f"p = {gain.p:.2g}" if gain.p >= 0.001 else "p < 0.001"
    gains, over = ("gains", "over") if gain.difference >= 0 else ("loses", "to")
    return (
        f"{gain.row} {gains} {abs(gain.difference):.4f} {metric} {over} {gain.over}: 95 % interval of the gain "
        f"{gain.low:+.4f} to {gain.high:+.4f}, {p} (on validation, each is the best with and without transfer)"
    )


def doubt_gain(gain: Gain) -> str | None:
    """Return a warning where transfer has not helped, or it cannot be told; None: it has."""
    if gain.low > 0 and gain.p <= LEVEL:
        return None
    way_out = "Take another encoder, more examples, or the simpler model."
    if gain.high < 0 and gain.p <= LEVEL:
        return f"negative transfer: {gain.row} is worse than {gain.over}. {way_out}"
    return f"no gain: this test set does not show that {gain.row} is better than {gain.over}. {way_out}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a training says of itself off the console, but for warnings."""
    nlptl = logging.getLogger("nlptl")
    level = nlptl.level
    nlptl.setLevel(logging.WARNING)
    try:
        yield
    finally:
        nlptl.setLevel(level)
