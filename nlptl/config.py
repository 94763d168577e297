"""The settings of a run as frozen dataclasses, and their strict JSON files, by which a run can be repeated."""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from nlptl.errors import ConfigError
from nlptl.formats import CONFIG_FORMAT, check_format, current_settings
from nlptl.values import Count, NotNegative, Positive, Range, Seed, Share, Unfit, check_fields, describe, fit, options

Freeze = Literal["nothing", "embeddings", "encoder"] | Count
TrainOnly = Literal["norms", "biases", "head"]
HeadKind = Literal["dense", "logistic", "centroid"]
Pooling = Literal["auto", "native", "cls", "mean", "max", "attention"]
HeadLayers = Literal["last", "mix"] | Count
Activation = Literal["relu", "gelu", "tanh"]
BinaryLoss = Literal["softmax", "sigmoid"]
LongText = Literal["head", "tail", "head-tail", "chunks"]
ChunkPooling = Literal["mean", "max", "attention"]
ClassWeights = Literal["balanced"] | Annotated[tuple[Annotated[float, Range(1e-6, 1e6)], ...], Range(at_least=1)] | None
SelectionMetric = Literal[
    "accuracy",
    "macro_f1",
    "weighted_f1",
    "matthews",
    "log_loss",
    "quadratic_kappa",
    "mae",
    "average_precision",
    "micro_f1",
    "samples_f1",
    "subset_accuracy",
    "hamming_loss",
    "spearman",
    "pearson",
    "rmse",
    "r2",
    "span_f1",
    "span_precision",
    "span_recall",
    "token_accuracy",
]
TextsShown = Literal["whole", "none"]
BaselineRow = Literal["majority", "words", "random", "frozen", "fine-tuned"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
CalibrationChoice = Literal["auto", "none", "temperature", "vector"]
ThresholdMetric = Literal["f1", "accuracy", "macro_f1", "matthews"]
TaskKind = Literal["single_label", "ordinal", "multi_label", "regression", "tokens"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DecisionConfig:
    """Calibration and decision thresholds, chosen on held-out data after training and saved in nlptl.json."""

    calibration: CalibrationChoice = "auto"
    """How probabilities are calibrated on the validation split. temperature: one factor for all logits (Guo et al.
    2017). vector: a factor and an offset per label. auto: temperature; for multi_label a factor and an offset per label
    (Platt 1999); nothing for regression."""
    threshold_metric: ThresholdMetric | None = None
    """Choose on the validation split the probability threshold that maximizes this metric: per label for multi_label,
    for the second label of two otherwise. None: f1 for multi_label, no threshold for two labels."""
    target_accuracy: Share | None = None
    """Abstain below a confidence threshold, chosen so that this fraction of the labels given on the validation split
    is correct, such as 0.95. None: every text gets a label."""
    coverage: Share | None = None
    """Also predict a set of labels that contains the true one with this probability, such as 0.9 (split conformal
    prediction, Sadinle et al. 2019). The guarantee is exact only on data that was not used for model selection: see
    nlptl calibrate. None: no sets."""
    out_of_scope: Share | None = None
    """Label texts as out_of_scope if they are unlike the training texts (energy score, Liu et al. 2020). The threshold
    keeps this fraction of the validation split, such as 0.95. None: never."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(DecisionConfig):
    """How a classifier is trained. What changes learning does not depend on the number of devices.

    Raises:
        ConfigError: If a value is out of its range; all such values are named in one message.
    """

    num_epochs: Count = 10
    """Passes over the training split."""
    batch_size: Count = 32
    """Examples per optimizer step, over all devices."""
    learning_rate: Positive | None = None
    """Peak learning rate. None: 5e-5 where the encoder trains; 5e-4 where only its norms, biases or low-rank updates
    do; for a head alone, 5e-3 if it is linear and 1e-3 if it has dense layers. A first stage that trains the head
    alone uses head_learning_rate or the head's default."""
    head_learning_rate: Positive | None = None
    """Peak learning rate of the head while the encoder trains too. None: learning_rate."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule; sgd has momentum 0.9."""
    weight_decay: NotNegative | None = None
    """Weight decay, never on biases and norms. None: 0.01 for adamw, 0 for adam and sgd."""
    head_weight_decay: NotNegative | None = None
    """Weight decay of the head. None: weight_decay."""
    layer_decay: Annotated[float, Range(above=0, at_most=1)] = 1.0
    """Factor between the learning rates of a layer and the layer above it. The top layer has learning_rate; the
    embeddings count as the lowest layer."""
    warm_head_epochs: Annotated[int, Range(at_least=0)] = 0
    """Train the head alone for this many epochs first, then everything that is not frozen (LP-FT, Kumar et al.
    2022)."""
    unfreeze_every_epochs: Count | None = None
    """Gradual unfreezing (ULMFiT, Howard and Ruder 2018): start with the head alone and unfreeze one more layer, from
    the top, after every this many epochs. None: train everything that is not frozen from the start."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after warmup: linear or cosine decay to zero, or constant."""
    warmup_ratio: Annotated[float, Range(0, 1)] = 0.06
    """Fraction of all steps in which the learning rate rises linearly from zero."""
    max_grad_norm: NotNegative = 1.0
    """Clip gradients to this norm; 0: never."""
    loss: Literal["cross_entropy", "focal", "asymmetric"] = "cross_entropy"
    """focal: examples that the model is sure of count less (Lin et al. 2017). asymmetric, for multi_label: absent
    labels count less, and not at all once they are improbable (Ridnik et al. 2021)."""
    focal_gamma: NotNegative = 2.0
    """Exponent of the focal loss; 0 is the cross-entropy."""
    logit_adjustment: NotNegative = 0.0
    """Add this multiple of the log frequency of each label to its logit during training, so that rare labels are
    learned as well (Menon et al. 2021), such as 1."""
    sampling: Literal["natural", "balanced"] = "natural"
    """balanced: draw as many examples of every class in an epoch, so that rare classes repeat and frequent ones are
    sampled."""
    label_smoothing: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Fraction of the target probability that is spread evenly over all classes."""
    class_weights: ClassWeights = None
    """Weight of each class in the mean loss of a batch, in the order of the labels. balanced: inversely proportional
    to its frequency in the training split. None: every example counts the same."""
    micro_batch_tokens: Count | None = None
    """Tokens, padding included, that one device processes at once, and at least one example. It bounds memory and
    changes the gradient only through dropout, whose noise is drawn per micro-batch. Halved when memory runs out. None:
    2048 on a CPU without padding, else 512; 16384 on an accelerator."""
    padding_free: bool | None = None
    """Run all layers of the encoder without padding; the results are equal up to rounding. None: on a CPU, where
    encoder and head support it; on an accelerator only if True, since it has not been measured there."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer and recompute the rest for the gradient (Chen et al. 2016). Takes longer, and
    saves memory only where one micro-batch needs much of it, such as one long text in a large encoder. Layers see
    padding."""
    quick_layers: bool = True
    """On a CPU, use faster matrix products and dropout than torch's own; the results are equal up to rounding and
    noise."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass on devices that support it."""
    eval_steps: Count | None = None
    """Steps between evaluations on the validation split. None: one evaluation per epoch."""
    save_steps: Count | None = None
    """Steps between checkpoints; the best evaluation so far always has one. None: one at every evaluation."""
    keep_last: Annotated[int, Range(at_least=2)] = 2
    """Number of newest checkpoints to keep, at least 2; the best one is kept as well."""
    early_stopping: Count | None = None
    """Stop after this many evaluations without a better validation score. None: never."""
    selection_metric: SelectionMetric | None = None
    """Validation score that chooses the best model; ties keep the earlier one. None: the first score of the task:
    accuracy, quadratic_kappa (ordinal), average_precision (multi_label), spearman (regression) or span_f1 (tokens)."""
    logging_steps: Count = 50
    """Steps between two lines of metrics.jsonl."""
    track: TrackerName | None = None
    """Also send the numbers of metrics.jsonl and the final scores to this tracker, an extra of the same name.
    tensorboard writes into the run folder; the others use their own settings and log-ins. None: no tracker."""
    cache: bool = True
    """Compute frozen parts once. Where only the head trains, its input is kept on disk for later runs; above frozen
    lower layers, hidden states are kept for this run where that saves time."""
    cache_size: Positive = 20.0
    """Size limit of the cache on disk in gigabytes; the least recently used entries are removed first."""
    cache_dtype: Literal["float32", "float16"] = "float32"
    """Precision of cached hidden states; float16 takes half the space and rounds to 11 bits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding_free and self.gradient_checkpointing:
            raise ConfigError(
                "padding_free contradicts gradient_checkpointing, whose layers see padding. Pass one of the two."
            )


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What is frozen, what trains, and what is added to the encoder."""

    freeze: Freeze = "nothing"
    """What keeps its pretrained weights: nothing, embeddings, encoder, or a number of lowest layers (with the
    embeddings)."""
    train_only: TrainOnly | None = None
    """Of the parameters that are not frozen, train only the norms, the biases (BitFit, Ben Zaken et al. 2022) or none;
    the head always trains. None: train all of them."""
    reinit_layers: Annotated[int, Range(at_least=0)] = 0
    """Number of top layers, with the pooler, that start from new weights (Zhang et al. 2021)."""
    lora_rank: Count | None = None
    """Train low-rank updates of this rank in place of the encoder's weights (LoRA, Hu et al. 2022). They are merged
    into model/ and saved for peft in adapter/. None: no LoRA."""
    lora_alpha: Positive = 16.0
    """Scale of the low-rank updates; they are multiplied by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = ("auto",)
    """Linear layers that get low-rank updates, by the last parts of their names. auto: all linear layers inside the
    encoder's layers."""
    lora_dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Dropout probability before the low-rank updates."""
    dora: bool = False
    """Train the magnitudes of the adapted weights apart from their directions (DoRA, Liu et al. 2024)."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The head of a classifier: its input, its shape, and the form of its loss."""

    head: HeadKind = "dense"
    """dense: trained by gradient. logistic, centroid: fitted by scikit-learn over a frozen encoder."""
    pooling: Pooling = "auto"
    """What the head reads. native: the architecture's own head. cls, mean, max, attention: a pooling of the hidden
    states. auto: native when the encoder trains, if its own head reads one vector per text; mean otherwise, and when
    texts are read in chunks."""
    chunk_pooling: ChunkPooling = "mean"
    """How the chunks of a text are combined with long_text chunks. attention: weighted by a learned query."""
    layers: HeadLayers = "last"
    """Layers whose hidden states are pooled: last, the last K concatenated, or mix, a learned average of all."""
    hidden: tuple[Count, ...] = ()
    """Units of the dense layers of the head, from the encoder to the labels. Empty: a linear head."""
    activation: Activation | None = None
    """Activation of the dense layers. None: relu."""
    dropout: Annotated[float, Range(at_least=0, below=1)] | None = None
    """Dropout probability everywhere, the encoder included. None: as in the checkpoint."""
    binary_loss: BinaryLoss = "softmax"
    """Loss for two labels. sigmoid: one logit and binary cross-entropy."""
    inverse_regularization: Positive | None = None
    """C of a logistic head: the larger, the closer it fits the training split. None: 1."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How much of a text the model reads, and which part of a longer one."""

    max_length: Count | None = None
    """Tokens of a text that the model reads. None: 256, or fewer if the encoder is limited to fewer."""
    long_text: LongText | None = None
    """What the model reads of a longer text: its head, its tail, a quarter from the head and the rest from the tail
    (Sun et al. 2019), or all of it in chunks of max_length tokens (Pappagari et al. 2019). None: head, or as a saved
    model reads it."""
    chunk_overlap: Annotated[int, Range(at_least=0)] | None = None
    """Tokens that consecutive chunks share. None: a quarter of max_length."""
    max_chunks: Count | None = None
    """Chunks of a text that the model reads; the rest is cut off. None: 16."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def in_chunks(self) -> bool:
        """Whether a long text is read in chunks of max_length tokens, each of which the encoder sees by itself."""
        return self.long_text == "chunks"

    @property
    def in_use(self) -> dict[str, Any]:
        """The settings that have an effect: those of chunks only if texts are read in chunks."""
        used = {"max_length": self.max_length, "long_text": self.long_text}
        return {**used, "chunk_overlap": self.chunk_overlap, "max_chunks": self.max_chunks} if self.in_chunks else used


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """What is analysed on the test split after training, and what the report shows."""

    report: bool = True
    """Write analysis.json (errors, slices, calibration on the test split), report.html and the model card."""
    texts_shown: TextsShown = "whole"
    """whole: the files of the run and the log quote texts. none: they give only row numbers."""
    with_baselines: bool = False
    """After training, also train the baselines on the same splits: TF-IDF with a linear model, the encoder with random
    weights, frozen and fine-tuned (see nlptl baselines --help)."""
    slice_columns: tuple[str, ...] = ()
    """Further columns of the data, such as genre or source. The report lists values on which the test score is worse
    than elsewhere; numeric columns are cut into ranges."""
    probes: bool = False
    """Score up to 500 test texts again with typos, other case, negations, emoji and added blanks."""
    explain: Annotated[int, Range(at_least=0)] = 0
    """For this many test texts, right and wrong ones, report which words speak for the prediction (integrated
    gradients; extra explain)."""

    def __post_init__(self) -> None:
        check_fields(self)
        wanted = {"slice_columns": self.slice_columns, "probes": self.probes, "explain": self.explain}
        unused = [name for name, value in wanted.items() if value]
        if unused and not self.report:
            flags = ", ".join(map(flag, unused))
            raise ConfigError(f"{flags} add to the report, but report=False leaves it out. Drop one of the two.")
        if self.explain and self.texts_shown == "none":
            raise ConfigError(
                "--explain shows words of test texts, but --texts-shown none hides them. Leave one of the two out."
            )


@dataclass(frozen=True, kw_only=True)
class RepeatsConfig:
    """Repeated runs, to measure how much a score depends on chance."""

    seeds: tuple[Seed, ...] = ()
    """Train once per seed on the same splits, in the folders seed-0/, seed-1/, ... of output_dir; report the mean and
    standard deviation of each score. Empty: train once, with --seed."""
    folds: Annotated[int, Range(at_least=2)] | None = None
    """Cross-validation with this many folds, stratified by label and group, in the folders fold-1/, fold-2/, ... of
    output_dir. A given test split is left out. None: no cross-validation."""
    fold: Count | None = None
    """Run only this fold, counted from 1. None: all of them."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.seeds and self.folds is not None:
            raise ConfigError("Expected --seeds or --folds, found both. Pass one of the two.")
        if self.seeds and (len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds)):
            raise ConfigError(
                f"Expected two or more different seeds, found {', '.join(map(str, self.seeds))}. Pass for instance "
                "--seeds 0 1 2 3 4, or one as --seed."
            )
        if self.fold is not None and not (self.folds is not None and self.fold <= self.folds):
            raise ConfigError(
                f"Expected a fold from 1 to the number of folds, found fold {self.fold} of --folds {self.folds}. "
                "Pass both, or leave out fold."
            )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a data set are read."""

    text_column: str | None = None
    """Column with the text, or a template that joins several, such as "{title}: {body}"; for tokens, the list of
    words. None: found by name."""
    pair_column: str | None = None
    """Column with the second text of each pair. None: single texts."""
    label_column: str | None = None
    """Column with the label, the list of labels, the number, or the list of tags. None: found by name."""
    label_columns: tuple[str, ...] = ()
    """Several label columns: for multi_label one column with 0 or 1 per label, for regression one per output."""
    label_separator: str | None = None
    """Separator of the labels in a multi_label column that does not hold JSON lists."""
    group_column: str | None = None
    """Column that names the group of each text, such as its author or thread: a carved-out split never divides a
    group. None: no groups."""
    separator: str | None = None
    """Character between the columns of a CSV or TSV file, such as ";". None: found by looking at the file."""
    header: bool = True
    """The first line of a CSV or TSV file names its columns. --no-header: columns are named 1, 2, 3, ..."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Columns):
    """How a data set is read, and which of its texts are used."""

    task: TaskKind = "single_label"
    """Kind of target. single_label: one label. ordinal: one of several ordered labels. multi_label: any number of
    labels. regression: one number or several. tokens: a tag per word."""
    label_order: tuple[str, ...] = ()
    """Labels of an ordinal task from lowest to highest. Empty: the labels are numbers."""
    drop_empty: bool = False
    """Leave out empty and blank texts."""
    deduplicate: bool = False
    """Drop from train every text that also occurs in another split, and every later duplicate with the same label."""
    max_examples: Annotated[int, Range(at_least=2)] | None = None
    """Keep at most this many examples of each split, for a first try."""
    split_seed: Seed = 0
    """Seeds the carving of missing splits and --max-examples. It is separate from --seed so that runs with several
    seeds see the same texts."""


BY_NAME = Columns()
"""Columns that are found by their names."""


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(ReadingConfig, DataConfig):
    """Settings of a training from a data set to scores."""

    not_flags: ClassVar[frozenset[str]] = frozenset(
        [
            "cache_dtype",
            "chunk_overlap",
            "chunk_pooling",
            "dora",
            "focal_gamma",
            "fold",
            "gradient_checkpointing",
            "head_weight_decay",
            "inverse_regularization",
            "label_smoothing",
            "logit_adjustment",
            "lora_dropout",
            "lora_targets",
            "max_chunks",
            "max_grad_norm",
            "padding_free",
            "quick_layers",
            "reinit_layers",
            "report",
            "sampling",
            "strict",
            "with_baselines",
        ]
    )
    """Settings of Python and `--config` files that are not flags: few people need them."""

    model: str = "sample:minilm"
    """Pretrained encoder: sample:minilm, a local folder, or a Hub id (name@revision pins it)."""
    dataset: str = "sample:rotten_tomatoes"
    """A file, a folder with train / validation / test files, a Hub id (name:configuration picks one of several,
    name@revision pins it), or a sample."""
    strict: bool = False
    """Stop before training at any finding of the data checks, not only at errors."""
    near_duplicates: bool = True
    """Look for near-duplicate texts before training; takes a second or less for 5,000 texts."""
    long_text: LongText = "head"
    """What the model reads of a longer text: its head, its tail, a quarter from the head and the rest from the tail
    (Sun et al. 2019), or all of it in chunks of max_length tokens (Pappagari et al. 2019)."""
    output_dir: Path = Path("runs/classification")
    """Folder of the run: model, scores, predictions, checkpoints."""
    resume: bool = False
    """Continue the interrupted run in output_dir."""
    overwrite: bool = False
    """Move a run that is already in output_dir aside."""
    dry_run: bool = False
    """Read the data, print what would train and about what it takes in memory, time and disk space, and stop without
    writing."""
    seed: Seed = 0
    """Seeds new weights, the order of examples and dropout."""
    transfer: TransferConfig = TransferConfig()
    head: HeadConfig = HeadConfig()
    train: TrainingConfig = TrainingConfig()
    judging: JudgingConfig = JudgingConfig()
    repeats: RepeatsConfig = RepeatsConfig()


def flag(name: str) -> str:
    """Return how a message names a setting: `--max-length`, or `max_chunks` where it is not a flag of recipes."""
    return name if name in ClassificationConfig.not_flags else f"--{name.replace('_', '-')}"


def part_of(cls: type[T], config: Any) -> T:
    """Return the part of a configuration that a dataclass it extends describes, such as its `Columns`."""
    return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cast(Any, cls))})


def with_shortcuts(config: T, **shortcuts: Any) -> T:
    """Return a configuration with the values that were passed for single fields of it; None: not passed.

    Raises:
        ConfigError: If one of them contradicts the configuration.
    """
    given = {name: value for name, value in shortcuts.items() if value is not None}
    replaced = dataclasses.replace(cast(Any, config), **given)  # checks the values, and lists become tuples
    for name, value in given.items():
        found = getattr(config, name)
        if found not in (getattr(replaced, name), getattr(type(config)(), name)):
            raise ConfigError(
                f"{name}={value!r} contradicts {name}={found!r} in the {type(config).__name__}. Pass one of the two."
            )
    return cast(T, replaced)


def to_json(values: Any) -> dict[str, Any]:
    """Return a dataclass or a dict as strict JSON: paths become strings, dataclasses objects, NaN and infinity None."""
    return cast(dict[str, Any], _plain(values))


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings on one level; their names are unique."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value) if isinstance(value, dict) else {key: value}
    return found


def from_json(cls: type[T], values: dict[str, Any], *, source: str = "the configuration") -> T:
    """Build the dataclass `cls` from JSON values, refusing unknown keys and wrong types.

    Raises:
        ConfigError: If a key is unknown (with the nearest known one), a key without a default is missing, or a value
            has another type than its field.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"Expected an object with settings in {source}, found {type(values).__name__}.")
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cast(Any, cls))
    names = [field.name for field in fields]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known settings: {', '.join(names)}."
            raise ConfigError(f"Unknown setting {key!r} in {source}. {hint}")
    required = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(f"Expected {', '.join(map(repr, missing))} in {source}: these settings have no default.")
    return cls(**{key: _parse(hints[key], value, f"{key} in {source}") for key, value in values.items()})


def load_config(cls: type[T], path: Path) -> T:
    """Read a dataclass from a JSON file, such as the `config.json` of a run, also one of an earlier version.

    Raises:
        ConfigError: If the file is missing, is not JSON, says one thing twice, or does not fit the dataclass; if it has
            a setting that was deleted, or a newer version wrote it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise ConfigError(f"Expected a configuration file, cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"Expected JSON in {path}, found something else: {error}.") from error
    if isinstance(values, dict):
        check_format(values.get("format", 1), CONFIG_FORMAT, path)
        values = current_settings(values, path)
    return from_json(cls, values, source=str(path))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return values


def _parse(hint: Any, value: Any, where: str) -> Any:
    nested = [option for option in options(hint) if isinstance(option, type) and dataclasses.is_dataclass(option)]
    if nested and value is not None:
        return from_json(cast(type, nested[0]), value, source=where)
    try:
        return fit(hint, value)
    except Unfit:
        raise ConfigError(f"Expected {describe(hint, none='null')} for {where}, found {value!r}.") from None
