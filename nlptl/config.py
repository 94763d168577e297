"""TrainingConfig, and strict JSON <-> frozen dataclass: what a run was told to do, in a file that repeats it."""

import dataclasses
import difflib
import json
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from nlptl.errors import ConfigError

Freeze = Literal["nothing", "embeddings", "encoder"] | int
TrainOnly = Literal["norms", "biases", "head"]
HeadKind = Literal["dense", "logistic", "knn", "centroid"]
Pooling = Literal["auto", "native", "cls", "mean", "max", "attention"]
HeadLayers = Literal["last", "mix"] | int
Activation = Literal["relu", "gelu", "tanh"]
BinaryLoss = Literal["softmax", "sigmoid"]
LongText = Literal["head", "tail", "head-tail", "chunks"]
ChunkPooling = Literal["mean", "max", "attention"]
ClassWeights = Literal["balanced"] | tuple[float, ...] | None
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
TextsShown = Literal["whole", "masked", "none"]
BaselineRow = Literal["majority", "words", "random", "frozen", "fine-tuned"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
CalibrationChoice = Literal["auto", "none", "temperature", "vector"]
ThresholdMetric = Literal["f1", "accuracy", "macro_f1", "matthews"]
TaskKind = Literal["single_label", "ordinal", "multi_label", "regression", "tokens"]

T = TypeVar("T")


def is_count(value: object) -> bool:
    """Return whether `value` is a whole number from 1 on, of Python or numpy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def _are_class_weights(value: object) -> bool:
    is_list = isinstance(value, tuple) and len(value) > 0
    return value in (None, "balanced") or (is_list and all(1e-6 <= x <= 1e6 for x in cast(Any, value)))


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the values that a type of literals allows; empty: it is another type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    literals = [option for option in options if typing.get_origin(option) is Literal]
    if not literals or len(literals) + (types.NoneType in options) < len(options):
        return ()
    values = [value for option in literals for value in typing.get_args(option)]
    return (*values, *([None] if types.NoneType in options else []))


def _is_share(value: float | None) -> bool:
    return value is None or 0 < value < 1


def _refuse_outside(config: Any, ranges: tuple[tuple[str, str, Callable[[Any], bool]], ...]) -> None:
    """Refuse the values of a configuration that its fields do not allow, all of them in one message."""
    problems = [
        f"{name} must be {wanted}, found {getattr(config, name)!r}"
        for name, wanted, is_good in ranges
        if not is_good(getattr(config, name))
    ]
    problems += [
        f"{name} must be {_describe(hint)}, found {getattr(config, name)!r}"
        for name, hint in typing.get_type_hints(type(config)).items()
        if (choices := _choices(hint)) and getattr(config, name) not in choices
    ]
    if problems:
        raise ConfigError("Expected settings within their ranges: " + "; ".join(problems) + ".")


@dataclass(frozen=True, kw_only=True)
class DecisionConfig:
    """What is chosen on held-out data once a model is trained, saved in nlptl.json, and used by predict.

    Raises:
        ConfigError: If a value is out of its range; all such values are named in one message.
    """

    calibration: CalibrationChoice = "auto"
    """How probabilities are mended on validation. temperature: one number for all logits (Guo et al. 2017); vector: a
    scale and an offset for each label. auto: temperature, for multi_label a scale and an offset for each label (Platt
    1999), nothing for regression."""
    threshold_metric: ThresholdMetric | None = None
    """Choose on validation the probability from which on a label is predicted, so that this is highest: for each label
    of multi_label, or for the second one of two labels. None: f1 for multi_label, no threshold for two labels."""
    target_accuracy: float | None = None
    """Give no label to texts whose label has too low a probability, so that this share of the labels given on
    validation is right, such as 0.95. None: every text gets a label."""
    coverage: float | None = None
    """Predict a set of labels too, which holds the true one with this probability, such as 0.9 (split conformal
    prediction). It holds in earnest for data on which nothing was chosen: see nlptl calibrate. None: no sets."""
    conformal_score: Literal["lac", "aps"] | None = None
    """With coverage: lac gives the smallest sets (Sadinle et al. 2019), aps larger ones where a text is difficult
    (Romano et al. 2020). None: lac."""
    out_of_scope: float | None = None
    """Label texts out_of_scope that are unlike those of training by their energy (Liu et al. 2020), so that this share
    of validation stays, such as 0.95. None: no text is."""

    def __post_init__(self) -> None:
        _refuse_outside(self, _DECISION_RANGES)
        if self.conformal_score is not None and self.coverage is None:
            raise ConfigError(
                f"Expected --coverage with --conformal-score {self.conformal_score}, found none. Pass --coverage 0.9, "
                "or leave it out."
            )


_DECISION_RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("target_accuracy", "between 0 and 1, or unset", _is_share),
    ("coverage", "between 0 and 1, or unset", _is_share),
    ("out_of_scope", "between 0 and 1, or unset", _is_share),
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(DecisionConfig):
    """How a classifier is trained. What changes learning does not depend on the number of devices.

    Raises:
        ConfigError: If a value is out of its range; all such values are named in one message.
    """

    num_epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 32
    """Examples per optimizer step, over all devices."""
    learning_rate: float | None = None
    """Peak learning rate. None: 5e-5 where the encoder trains, 5e-4 where only norms, biases or low-rank updates of it
    do; where the head alone trains, 5e-3 for a linear head and 1e-3 for a dense one. In a stage of the head alone
    before the encoder's, the head has head_learning_rate or this default."""
    head_learning_rate: float | None = None
    """Peak learning rate of the head, where the encoder trains too. None: the same as learning_rate."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule; sgd has momentum 0.9."""
    weight_decay: float | None = None
    """Weight decay, never on biases and norms. None: 0.01 for adamw, 0 for adam and sgd."""
    head_weight_decay: float | None = None
    """Weight decay of the head. None: the same as weight_decay."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a share of that of the layer above; the top layer has learning_rate, the
    embeddings come below the lowest layer."""
    warm_head_epochs: int = 0
    """First epochs in which the head alone trains, before all that is not frozen does (LP-FT)."""
    unfreeze_every_epochs: int | None = None
    """Gradual unfreezing: start with the head alone, and let one more layer train, from the top, each time after this
    many epochs. None: everything that is not frozen trains from the start."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after warmup: down to zero in a line or a half cosine, or constant."""
    warmup_ratio: float = 0.06
    """Share of all steps in which the learning rate rises from zero."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it; 0: never."""
    loss: Literal["cross_entropy", "focal", "asymmetric"] = "cross_entropy"
    """focal: examples that the model is sure of count less (Lin et al. 2017). asymmetric, for multi_label: labels that
    a text does not have count less, and not at all once they are improbable (Ridnik et al. 2021)."""
    focal_gamma: float = 2.0
    """How much less examples count that the focal loss is sure of; 0 is the cross-entropy."""
    logit_adjustment: float = 0.0
    """Adds this times the logarithm of each label's share of train to its logit in training, so that what is learned
    serves rare labels too (Menon et al. 2021), such as 1."""
    sampling: Literal["natural", "balanced"] = "natural"
    """balanced: in an epoch every class has as many places; those of rare ones come several times, and of frequent ones
    a part."""
    label_smoothing: float = 0.0
    """Share of the target probability that is spread evenly over all classes."""
    class_weights: ClassWeights = None
    """Weight of each class in the mean loss of a batch, in the order of the labels. balanced: as if every class had
    equally many examples in the training split. None: every example counts the same."""
    mixout: float = 0.0
    """Probability with which a weight of the encoder is its pretrained value in a step (Lee et al. 2020)."""
    l2_sp: float = 0.0
    """Strength of the pull of the encoder towards its pretrained weights (L2-SP, Li et al. 2018)."""
    r_drop: float = 0.0
    """Weight of the divergence between two passes with different dropout (R-Drop, Liang et al. 2021)."""
    fgm: float = 0.0
    """Size of the adversarial step on the word embeddings (FGM, Miyato et al. 2017)."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights that is evaluated and kept, such as 0.99. None: no average."""
    wise_ft: float | None = None
    """Share of the fine-tuned encoder in its mean with the pretrained one, taken at the end (WiSE-FT, Wortsman et al.
    2022), such as 0.5. None: no mean."""
    micro_batch_tokens: int | None = None
    """Tokens, padding included, that one device forwards at once; bounds memory, never changes the gradient
    but for dropout, whose noise is drawn for each micro-batch. Halved when memory runs out.
    None: 2048 on a CPU where layers see no padding, else 512; 16384 on an accelerator; at least one example."""
    padding_free: bool | None = None
    """Leave padding out of all layers of the encoder; equal up to rounding. None: on a CPU, where encoder and head can
    do without it; on an accelerator it takes a True, since it is not measured there yet."""
    gradient_checkpointing: bool = False
    """Keep nothing of a layer but its input, and compute the rest once more for the gradient (Chen et al. 2016,
    arXiv:1604.06174). Layers see padding then: it takes more time, and less memory only where a micro-batch takes much
    of it, as one long text does in a large encoder."""
    quick_layers: bool = True
    """On a CPU: products of matrices and dropout by quicker ways than torch's own, and freed memory kept by the
    process; equal up to rounding and noise."""
    sparse_embeddings: bool = True
    """Let the optimizer update those rows of the word embeddings that the training texts use; the others get weight
    decay alone. Equal up to rounding, in less memory. The whole table is updated where more than half of it is used, or
    another layer has it too; with fp16, FSDP2 or l2_sp; and with weight decay by another optimizer than adamw."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass on devices that have it."""
    eval_steps: int | None = None
    """Steps between evaluations on validation. None: once per epoch."""
    save_steps: int | None = None
    """Steps between checkpoints; an evaluation that is the best so far has one too. None: one at every evaluation."""
    keep_last: int = 2
    """Newest checkpoints that are kept, at least 2; the best one stays beside them."""
    early_stopping: int | None = None
    """Stop after this many evaluations in a row without a better score on validation. None: never."""
    selection_metric: SelectionMetric | None = None
    """Validation score that chooses the best model, one of those of the task; ties keep the earlier one. None: accuracy
    of single labels, quadratic_kappa of ordinal ones, average_precision of several labels, spearman of scores, span_f1
    of tags."""
    logging_steps: int = 50
    """Steps between two lines of metrics.jsonl."""
    track: TrackerName | None = None
    """Where the numbers of metrics.jsonl and the final scores go too, each an extra of nlptl of the same name.
    tensorboard writes into the folder of the run; the others go by their own settings and log-ins. None: nowhere."""
    keep_adapter: bool = False
    """With LoRA: save the low-rank updates as a peft adapter too, in the folder adapter/ of the run."""
    cache: bool = True
    """Compute what is frozen once: what the head reads, kept on disk for later runs, where the head alone trains; the
    hidden states above the lowest frozen layers, kept for this run, where that saves time."""
    cache_size: float = 20.0
    """Gigabytes that the cache on disk may have; what was not used for longest goes first."""
    cache_dtype: Literal["float32", "float16"] = "float32"
    """Precision of cached hidden states; float16 takes half the space and rounds them to 11 bits."""

    def __post_init__(self) -> None:
        _refuse_outside(self, _TRAINING_RANGES + _DECISION_RANGES)
        super().__post_init__()
        if self.padding_free and self.gradient_checkpointing:
            raise ConfigError(
                "Expected --padding-free or --gradient-checkpointing, whose layers see padding, found both. Pass one "
                "of the two; --padding-free None is as if it were left out."
            )


_TRAINING_RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("num_epochs", "a whole number from 1 on", is_count),
    ("batch_size", "a whole number from 1 on", is_count),
    ("learning_rate", "above 0, or unset", lambda x: x is None or (math.isfinite(x) and x > 0)),
    ("head_learning_rate", "above 0, or unset", lambda x: x is None or (math.isfinite(x) and x > 0)),
    ("weight_decay", "0 or more, or unset", lambda x: x is None or (math.isfinite(x) and x >= 0)),
    ("head_weight_decay", "0 or more, or unset", lambda x: x is None or (math.isfinite(x) and x >= 0)),
    ("layer_decay", "above 0 and at most 1", lambda x: 0 < x <= 1),
    ("warm_head_epochs", "a whole number from 0 on", lambda x: x == 0 or is_count(x)),
    ("unfreeze_every_epochs", "a whole number from 1 on, or unset", lambda x: x is None or is_count(x)),
    ("warmup_ratio", "from 0 to 1", lambda x: 0 <= x <= 1),
    ("max_grad_norm", "0 or more", lambda x: math.isfinite(x) and x >= 0),
    ("label_smoothing", "at least 0 and below 1", lambda x: 0 <= x < 1),
    ("focal_gamma", "0 or more", lambda x: math.isfinite(x) and x >= 0),
    ("logit_adjustment", "0 or more", lambda x: math.isfinite(x) and x >= 0),
    ("class_weights", "'balanced' or numbers from 1e-6 to 1e6, one for each class", _are_class_weights),
    ("mixout", "at least 0 and below 1", lambda x: 0 <= x < 1),
    ("l2_sp", "0 or more", lambda x: math.isfinite(x) and x >= 0),
    ("r_drop", "0 or more", lambda x: math.isfinite(x) and x >= 0),
    ("fgm", "0 or more", lambda x: math.isfinite(x) and x >= 0),
    ("ema_decay", "above 0 and below 1, or unset", lambda x: x is None or 0 < x < 1),
    ("wise_ft", "from 0 to 1, or unset", lambda x: x is None or 0 <= x <= 1),
    ("cache_size", "above 0", lambda x: x > 0),
    ("micro_batch_tokens", "a whole number from 1 on, or unset", lambda x: x is None or is_count(x)),
    ("eval_steps", "a whole number from 1 on, or unset", lambda x: x is None or is_count(x)),
    ("save_steps", "a whole number from 1 on, or unset", lambda x: x is None or is_count(x)),
    ("keep_last", "a whole number from 2 on", lambda x: is_count(x) and x >= 2),
    ("early_stopping", "a whole number from 1 on, or unset", lambda x: x is None or is_count(x)),
    ("logging_steps", "a whole number from 1 on", is_count),
)


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What of a pretrained encoder stays, what trains, and what is added to it."""

    freeze: Freeze = "nothing"
    """What keeps its pretrained weights: nothing, embeddings, encoder, or the number of lowest layers, the embeddings
    included."""
    train_only: TrainOnly | None = None
    """What trains of all that is not frozen: norms, biases (BitFit, Ben Zaken et al. 2022) or nothing but the head; the
    head always trains. None: everything."""
    reinit_layers: int = 0
    """Top layers that start from new weights, the pooler with them (Zhang et al. 2021)."""
    lora_rank: int | None = None
    """Rank of low-rank updates (LoRA, Hu et al. 2022) that train in place of the encoder's weights. None: no LoRA."""
    lora_alpha: float = 16.0
    """Scale of the low-rank updates, in units of their rank."""
    lora_targets: tuple[str, ...] = ("auto",)
    """Linear layers that get low-rank updates, by the last parts of their names. auto: all in the encoder's layers."""
    lora_dropout: float = 0.0
    """Probability of the dropout before the low-rank updates."""
    dora: bool = False
    """Train the magnitudes of the adapted weights apart from their directions (DoRA, Liu et al. 2024)."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The head of a classifier: what it reads, its shape, and the form of its loss."""

    head: HeadKind = "dense"
    """dense: trained by gradient. logistic, knn, centroid: fitted by scikit-learn over a frozen encoder."""
    pooling: Pooling = "auto"
    """What the head reads. native: the architecture's own head; cls, mean, max, attention: over the hidden states.
    auto: native when the encoder trains, mean when it is frozen or texts are read in chunks."""
    chunk_pooling: ChunkPooling = "mean"
    """How the pooled chunks of a text become one, with long_text chunks. attention: weighted by a learned query."""
    layers: HeadLayers = "last"
    """Layers whose hidden states are pooled: the last one, the last k side by side, or a learned mix of all."""
    hidden: tuple[int, ...] = ()
    """Units of the dense layers in the head, from the encoder to the labels. Empty: a linear head."""
    activation: Activation | None = None
    """Activation of the dense layers. None: relu."""
    dropout: float | None = None
    """Probability of every dropout, in the encoder too. None: as in the checkpoint."""
    binary_loss: BinaryLoss = "softmax"
    """Loss of a head with two labels. sigmoid: one logit and the binary cross-entropy."""
    neighbors: int | None = None
    """Neighbors that vote in a knn head. None: 5."""
    inverse_regularization: float | None = None
    """C of a logistic head: the larger, the closer it fits the training split. None: 1."""


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """What is found out about a trained model on test, and shown."""

    report: bool = True
    """Write analysis.json (errors, slices, calibration on test), report.html and the model card, model/README.md, from
    what test has shown."""
    texts_shown: TextsShown = "whole"
    """What the files of a run hold of the texts: whole; masked, with <email>, <number> and <link> in place of these; or
    none, their rows alone."""
    with_baselines: bool = False
    """Train what the run is compared with after it, on the same splits: TF-IDF with a linear model, the same encoder
    with random weights, frozen, fine-tuned; see nlptl baselines --help."""
    slice_columns: tuple[str, ...] = ()
    """Further columns of the data, such as genre or source: the report says of which of their values test is scored
    worse than elsewhere. Columns of numbers are cut into ranges."""
    probes: bool = False
    """Score up to 500 texts of test again with typos, in other case, with negations, emoji and blanks put in."""
    explain: int = 0
    """Texts of test, wrong and right ones, of which is said which words speak for what is predicted (integrated
    gradients; extra explain)."""

    def __post_init__(self) -> None:
        wanted = {"slice_columns": self.slice_columns, "probes": self.probes, "explain": self.explain}
        unused = [name for name, value in wanted.items() if value]
        if self.explain != 0 and not is_count(self.explain):
            raise ConfigError(f"Expected explain to be a whole number from 0 on, found {self.explain!r}.")
        if unused and not self.report:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
            raise ConfigError(
                f"Expected a report that can say what is found, found --no-report with {flags}. Drop one."
            )
        if self.explain and self.texts_shown == "none":
            raise ConfigError(
                "Expected texts whose words may be shown, found --explain with --texts-shown none. Leave --explain "
                "out, or pass --texts-shown masked."
            )


@dataclass(frozen=True, kw_only=True)
class RepeatsConfig:
    """Several runs in place of one, for what chance does to a score."""

    seeds: tuple[int, ...] = ()
    """Train once with each of these seeds, on the same splits, in the folders seed-0/ and so on of output_dir: mean and
    standard deviation of each score. Empty: once, with --seed."""
    folds: int | None = None
    """Cross-validation: cut all texts but those of a given test split into so many folds, by label and group, and for
    each train on the others and test on it, in the folders fold-1/ and so on of output_dir. None: no folds."""
    fold: int | None = None
    """Of the folds this one alone, from 1 on. None: all of them."""

    def __post_init__(self) -> None:
        if self.seeds and self.folds is not None:
            raise ConfigError("Expected --seeds or --folds, found both. Pass one of the two.")
        if self.seeds and (len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds)):
            raise ConfigError(
                f"Expected two or more different seeds, found {', '.join(map(str, self.seeds))}. Pass for instance "
                "--seeds 0 1 2 3 4, or one as --seed."
            )
        if self.folds is not None and not (is_count(self.folds) and self.folds >= 2):
            raise ConfigError(f"Expected two or more folds, found {self.folds!r}. Pass for instance --folds 5.")
        if self.fold is not None and not (self.folds is not None and is_count(self.fold) and self.fold <= self.folds):
            raise ConfigError(
                f"Expected a fold from 1 to the number of folds, found --fold {self.fold} of --folds {self.folds}. "
                "Pass both, or leave out --fold."
            )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a data set are read."""

    text_column: str | None = None
    """Column with the text, or a template that joins several, such as "{title}: {body}"; for tokens, with the list of
    words. None: found by name."""
    pair_column: str | None = None
    """Column with the second text of each example, which the tokenizer joins to the first as a pair. None: single
    texts."""
    label_column: str | None = None
    """Column with the label, the list of labels, the score, or the list of tags. None: found by name."""
    label_columns: tuple[str, ...] = ()
    """Several columns in its place: for multi_label, one with 0 or 1 for each label; for regression, one for each
    score."""
    label_separator: str | None = None
    """What stands between the labels of a multi_label text in its column, where that holds no JSON lists."""
    group_column: str | None = None
    """Column that says what each text belongs to, such as its author or thread: a split that is carved out takes all
    texts of a group or none. None: each text is on its own."""
    separator: str | None = None
    """Character between the columns of a CSV or TSV file, such as ";". None: found by looking at the file."""
    header: bool = True
    """The first line of a CSV or TSV file holds the names of its columns. Without, they are called 1, 2, 3, ..."""


BY_NAME = Columns()
"""Columns that are found by their names."""


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(Columns):
    """Settings of a training from a data set to scores."""

    task: TaskKind = "single_label"
    """What the data says of each text: one label; one out of ordered ones (ordinal); any number of labels
    (multi_label); one score or several (regression); or a tag for each word (tokens)."""
    label_order: tuple[str, ...] = ()
    """The labels of an ordinal task from the lowest to the highest. Empty: they are numbers."""
    model: str = "sample:minilm"
    """Pretrained encoder: sample:minilm, a local folder, or a Hub id (name@revision pins it)."""
    dataset: str = "sample:rotten_tomatoes"
    """A file, a folder with train / validation / test files, a Hub id (name:configuration chooses one of several,
    name@revision pins it), or a sample."""
    drop_empty: bool = False
    """Leave out the texts of all splits that are empty or blank."""
    deduplicate: bool = False
    """Drop from train the texts that are also in validation or test, and those that stand in it before with the same
    label."""
    max_examples: int | None = None
    """Keep at most this many examples of each split, for a first try."""
    strict: bool = False
    """Stop before training at whatever the checks of the data find, not only at what cannot be trained on."""
    near_duplicates: bool = True
    """Look for texts that are nearly the same before training: a second or less for 5,000 texts."""
    max_length: int | None = None
    """Tokens of a text that are read. None: 256, or fewer if the encoder takes fewer."""
    long_text: LongText = "head"
    """What is read of a text that has more tokens: its beginning, its end, a quarter from the beginning and the rest
    from the end (Sun et al. 2019), or all of it, in chunks of max_length tokens (Pappagari et al. 2019)."""
    chunk_overlap: int | None = None
    """Tokens that a chunk has in common with the one before. None: a quarter of max_length."""
    max_chunks: int | None = None
    """Chunks of a text that are read; what lies beyond them is cut off. None: 16."""
    output_dir: Path = Path("runs/classification")
    """Folder of the run: model, scores, predictions, checkpoints."""
    resume: bool = False
    """Go on with the run in the folder, after an interruption."""
    overwrite: bool = False
    """Move a run that is in the folder aside."""
    dry_run: bool = False
    """Read the data, say what would train and what it takes in memory, time and disk, and stop; the folder is left as
    it is."""
    seed: int = 0
    """Seeds the new weights, the order of examples and dropout."""
    split_seed: int = 0
    """Seeds what is carved out where a split is missing, and what --max-examples keeps: apart from --seed, so that
    runs with several seeds see the same texts."""
    transfer: TransferConfig = TransferConfig()
    head: HeadConfig = HeadConfig()
    train: TrainingConfig = TrainingConfig()
    judging: JudgingConfig = JudgingConfig()
    repeats: RepeatsConfig = RepeatsConfig()


def columns_of(config: Columns) -> Columns:
    """Return the part of a configuration that says which columns are read."""
    return Columns(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Columns)})


def to_json(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain JSON values; paths become strings, nested dataclasses objects."""
    return cast(dict[str, Any], _plain(config))


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
    missing = [field.name for field in fields if field.name not in values and _is_required(field)]
    if missing:
        raise ConfigError(f"Expected {', '.join(map(repr, missing))} in {source}: these settings have no default.")
    return cls(**{key: _parse(hints[key], value, f"{key} in {source}") for key, value in values.items()})


def load_config(cls: type[T], path: Path) -> T:
    """Read a dataclass from a JSON file, such as the `config.json` of a run.

    Raises:
        ConfigError: If the file is missing, is not JSON, says one thing twice, or does not fit the dataclass.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise ConfigError(f"Expected a configuration file, cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"Expected JSON in {path}, found something else: {error}.") from error
    return from_json(cls, values, source=str(path))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)  # numpy's whole numbers, such as a search over settings passes, are not JSON.
    return str(value) if isinstance(value, Path) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return values


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _parse(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in sorted(arguments, key=lambda option: option is not type(value)):
            try:
                return _parse(option, value, where)
            except ConfigError:
                continue
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_parse(arguments[0], item, where) for item in value)
    elif dataclasses.is_dataclass(hint):
        return from_json(cast(type, hint), value, source=where)
    elif hint is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    elif hint is types.NoneType and value is None:
        return None
    raise ConfigError(f"Expected {_describe(hint)} for {where}, found {value!r}.")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    return "null" if hint is types.NoneType else getattr(hint, "__name__", str(hint))
