"""The flags of a command, their checks, and suggestions for wrong names."""

import dataclasses
import difflib
import typing
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from nlptl.errors import ConfigError

COMMON = {
    "data": ("dataset", "text-column", "label-column", "pair-column", "max-examples"),
    "model": ("model", "freeze", "head", "pooling", "hidden", "max-length", "long-text", "lora-rank"),
    "training": ("num-epochs", "batch-size", "learning-rate", "early-stopping", "selection-metric", "class-weights"),
    "run": ("output-dir", "resume", "overwrite", "dry-run", "seed", "seeds"),
}
"""The flags of a recipe that most people need, by topic: those of its `--help`."""

_WHOLE_BATCH = (
    "--batch-size (examples per step over all devices; --micro-batch-tokens bounds what one device forwards at once)"
)

HUGGING_FACE_SPELLINGS = {
    "bf16": "--mixed-precision bf16",
    "dataset-name": "--dataset",
    "early-stopping-patience": "--early-stopping",
    "epochs": "--num-epochs",
    "eval-strategy": "--eval-steps (unset: once per epoch)",
    "evaluation-strategy": "--eval-steps (unset: once per epoch)",
    "fp16": "--mixed-precision fp16",
    "gradient-accumulation-steps": _WHOLE_BATCH,
    "label-column-name": "--label-column",
    "label-smoothing-factor": "label_smoothing (in Python or a --config file)",
    "lr": "--learning-rate",
    "lr-scheduler-type": "--schedule",
    "max-seq-length": "--max-length",
    "max-train-samples": "--max-examples",
    "metric-for-best-model": "--selection-metric",
    "model-name-or-path": "--model",
    "num-train-epochs": "--num-epochs",
    "num-warmup-steps": "--warmup-ratio (a share of all steps)",
    "optim": "--optimizer",
    "overwrite-output-dir": "--overwrite",
    "per-device-eval-batch-size": "--micro-batch-tokens (what one device forwards at once)",
    "per-device-train-batch-size": _WHOLE_BATCH,
    "per-gpu-train-batch-size": _WHOLE_BATCH,
    "resume-from-checkpoint": "--resume",
    "text-column-name": "--text-column",
    "text-column-names": "--text-column",
    "train-batch-size": _WHOLE_BATCH,
    "train-file": "--dataset",
    "warmup-steps": "--warmup-ratio (a share of all steps)",
}
"""Our flags by the names in Hugging Face's scripts, each with a note where they differ."""


class Flag(NamedTuple):
    """A setting of a command; `owner` is the dataclass whose field it is."""

    setting: str
    hint: Any
    default: Any
    owner: type

    @property
    def name(self) -> str:
        """What follows the two dashes."""
        return self.setting.replace("_", "-")


def flags_of(cls: type) -> tuple[list[Flag], list[Flag]]:
    """Return the positional settings of a dataclass, which have no default, and its flags.

    The fields of the dataclasses in it are flags of the same level.
    """
    not_flags: Collection[str] = getattr(cls, "not_flags", ())
    given = [flag for flag in _settings(cls, None) if flag.setting not in not_flags]
    positional = [flag for flag in given if flag.default is dataclasses.MISSING]
    return positional, [flag for flag in given if flag.default is not dataclasses.MISSING]


def _settings(cls: type, values: Any) -> Iterator[Flag]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if values is not None:
            default = getattr(values, field.name)
        if dataclasses.is_dataclass(default):
            yield from _settings(type(default), default)
        else:
            yield Flag(field.name, hints[field.name], default, cls)


def check_flags(tokens: list[str], hints: dict[str, Any], not_flags: Collection[str] = ()) -> list[str]:
    """Refuse unknown flags, and rewrite `--flag true` and `--flag=false` of booleans for tyro.

    Args:
        tokens: The words of a command line.
        hints: The type of each flag, by its name without the leading dashes.
        not_flags: Names of settings that are no flags.

    Raises:
        ConfigError: If a flag is unknown, with the one that was probably meant, or if one that takes several values
            is given twice.
    """
    switches = [f"--{name}" for name, hint in hints.items() if hint is bool]
    known = {"help", "help-all", *hints, *(f"no-{switch[2:]}" for switch in switches)}
    checked: list[str] = []
    given: set[str] = set()
    for token in tokens:
        flag, equals, value = token.partition("=")
        name = flag[2:].replace("_", "-")
        if flag.startswith("--") and name and " " not in flag:
            if name not in known:
                raise ConfigError(f"Unknown option {flag}. {_did_you_mean(name, hints, not_flags)}")
            if name in given and typing.get_origin(hints.get(name)) is tuple:  # of single values the last one counts
                raise ConfigError(
                    f"Expected --{name} once, found it twice. Several values follow one flag: --{name} A B."
                )
            given.add(name)
            checked.append(f"--{name}")
            if not equals:
                continue
            token = value
            if checked[-1] not in switches:
                checked[-1] += f"={value}"
                continue
        if checked and checked[-1] in switches and token.lower() in ("true", "false"):
            checked[-1] = checked[-1] if token.lower() == "true" else f"--no-{checked[-1][2:]}"
        else:
            checked.append(token)
    return checked


def _did_you_mean(name: str, hints: dict[str, Any], not_flags: Collection[str]) -> str:
    setting = name.removeprefix("no-").replace("-", "_")
    if setting in not_flags:
        return f"{setting} is a setting of Python and of --config files, not a flag."
    spelling = HUGGING_FACE_SPELLINGS.get(name, "")
    ours = spelling.split(" ")[0]
    if ours in not_flags or ours.removeprefix("--") in hints:
        return f"Did you mean {spelling}?"
    near = nearest(name, hints)
    return f"Did you mean --{near}?" if near else "--help-all lists the options."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` begins or resembles, or None."""
    known = list(known)
    starting = [candidate for candidate in known if candidate.startswith(name) or candidate == f"run {name}"]
    return next(iter(starting or difflib.get_close_matches(name, known, n=1)), None)
