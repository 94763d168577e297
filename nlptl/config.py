"""TrainingConfig, and strict JSON <-> frozen dataclass: what a run was told to do, in a file that repeats it."""

import dataclasses
import difflib
import json
import math
import numbers
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from nlptl.errors import ConfigError

Freeze = Literal["nothing", "embeddings", "encoder"] | int
Pooling = Literal["auto", "native", "cls", "mean", "max"]
Activation = Literal["relu", "gelu", "tanh"]
BinaryLoss = Literal["softmax", "sigmoid"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a classifier is trained. What changes learning does not depend on the number of devices.

    Raises:
        ConfigError: If a value is out of its range; all such values are named in one message.
    """

    num_epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 32
    """Examples per optimizer step, over all devices."""
    learning_rate: float | None = None
    """Peak learning rate. None: 5e-5 where the encoder trains; where the head alone trains, 5e-3 for a
    linear head and 1e-3 for a dense one."""
    head_learning_rate: float | None = None
    """Peak learning rate of the head, where the encoder trains too. None: the same as learning_rate."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule; sgd has momentum 0.9."""
    weight_decay: float | None = None
    """Weight decay, never on biases and norms. None: 0.01 for adamw, 0 for adam and sgd."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after warmup: down to zero in a line or a half cosine, or constant."""
    warmup_ratio: float = 0.06
    """Share of all steps in which the learning rate rises from zero."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it; 0: never."""
    label_smoothing: float = 0.0
    """Share of the target probability that is spread evenly over all classes."""
    micro_batch_tokens: int | None = None
    """Tokens, padding included, that one device forwards at once; bounds memory, never changes the gradient
    but for dropout, whose noise is drawn for each micro-batch.
    None: 512 on a CPU, 16384 on an accelerator, at least one example."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the forward pass on devices that have it."""
    eval_steps: int | None = None
    """Steps between evaluations on validation. None: once per epoch."""
    early_stopping: int | None = None
    """Stop after this many evaluations in a row without a better score on validation. None: never."""
    selection_metric: Literal["accuracy", "macro_f1", "weighted_f1", "matthews", "log_loss"] = "accuracy"
    """Validation score that chooses the best model; ties keep the earlier one."""
    logging_steps: int = 50
    """Steps between two lines of metrics.jsonl."""
    reuse_features: bool = True
    """Where the head alone trains: run the frozen encoder once and train on its outputs in memory."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be {wanted}, found {getattr(self, name)!r}"
            for name, wanted, is_good in (
                ("num_epochs", "a whole number from 1 on", _is_count),
                ("batch_size", "a whole number from 1 on", _is_count),
                ("learning_rate", "above 0, or unset", lambda x: x is None or (math.isfinite(x) and x > 0)),
                ("head_learning_rate", "above 0, or unset", lambda x: x is None or (math.isfinite(x) and x > 0)),
                ("weight_decay", "0 or more, or unset", lambda x: x is None or (math.isfinite(x) and x >= 0)),
                ("warmup_ratio", "from 0 to 1", lambda x: 0 <= x <= 1),
                ("max_grad_norm", "0 or more", lambda x: math.isfinite(x) and x >= 0),
                ("label_smoothing", "at least 0 and below 1", lambda x: 0 <= x < 1),
                ("micro_batch_tokens", "a whole number from 1 on, or unset", lambda x: x is None or _is_count(x)),
                ("eval_steps", "a whole number from 1 on, or unset", lambda x: x is None or _is_count(x)),
                ("early_stopping", "a whole number from 1 on, or unset", lambda x: x is None or _is_count(x)),
                ("logging_steps", "a whole number from 1 on", _is_count),
            )
            if not is_good(getattr(self, name))
        ]
        problems += [
            f"{name} must be {_describe(hint)}, found {getattr(self, name)!r}"
            for name, hint in typing.get_type_hints(type(self)).items()
            if typing.get_origin(hint) is Literal and getattr(self, name) not in typing.get_args(hint)
        ]
        if problems:
            raise ConfigError("Expected settings within their ranges: " + "; ".join(problems) + ".")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The head of a classifier: what it reads, its shape, and the form of its loss."""

    pooling: Pooling = "auto"
    """What the head reads. native: the architecture's own head; cls, mean, max: over the last hidden states.
    auto: native when the encoder trains, mean when it is frozen."""
    hidden: int | None = None
    """Units of a dense layer in the head. None: a linear head."""
    activation: Activation | None = None
    """Activation of the dense layer. None: relu."""
    dropout: float | None = None
    """Probability of every dropout, in the encoder too. None: as in the checkpoint."""
    binary_loss: BinaryLoss = "softmax"
    """Loss of a head with two labels. sigmoid: one logit and the binary cross-entropy."""


def to_json(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain JSON values; paths become strings, nested dataclasses objects."""
    return cast(dict[str, Any], _plain(config))


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
    except ValueError as error:
        raise ConfigError(f"Expected JSON in {path}, found something else: {error}.") from error
    return from_json(cls, values, source=str(path))


def save_config(config: Any, path: Path) -> None:
    """Write a dataclass as JSON that `load_config` reads back to an equal object."""
    path.write_text(json.dumps(to_json(config), indent=2) + "\n", encoding="utf-8")


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


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and int(value) >= 1


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
    elif hint is Path and isinstance(value, str):
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
