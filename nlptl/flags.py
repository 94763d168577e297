"""What may stand on a command line: flags by their names, and the right name for a wrong one."""

import difflib
import typing
from collections.abc import Iterable
from typing import Any

from nlptl.errors import ConfigError

_ONE_DEVICE = "--micro-batch-tokens bounds what one device forwards at once"
_WHOLE_BATCH = f"--batch-size (examples per step over all devices; {_ONE_DEVICE})"

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
    "label-smoothing-factor": "--label-smoothing",
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
"""What Hugging Face's scripts call it, and what it is called here: the flag, then what there is to know about it."""


def check_flags(tokens: list[str], hints: dict[str, Any]) -> list[str]:
    """Refuse unknown flags; rewrite `--flag true` and `--flag=false` of booleans to what tyro reads.

    Of booleans that may be None too, it reads no `--flag` and `--no-flag` by themselves: these are `--flag=True` and
    `--flag=False`.

    Args:
        tokens: The words of a command line.
        hints: The type of each flag, by its name without the leading dashes.

    Raises:
        ConfigError: If a flag is unknown, with the one that was probably meant, or if one that takes several values
            stands there twice.
    """
    three_valued = [f"--{name}" for name, hint in hints.items() if hint == bool | None]
    switches = [f"--{name}" for name, hint in hints.items() if hint is bool] + three_valued
    known = {"help", *hints, *(f"no-{switch[2:]}" for switch in switches)}
    checked: list[str] = []
    given: set[str] = set()
    for token in tokens:
        flag, equals, value = token.partition("=")
        name = flag[2:].replace("_", "-")
        if flag.startswith("--") and name and " " not in flag:
            if name not in known:
                raise ConfigError(f"Unknown option {flag}. {_did_you_mean(name, hints)}")
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
        elif checked and checked[-1] in three_valued and token.lower() == "none":
            checked[-1] += "=None"
        else:
            checked.append(token)
    values = {flag: f"{flag}=True" for flag in three_valued}
    values |= {f"--no-{flag[2:]}": f"{flag}=False" for flag in three_valued}
    return [values.get(token, token) for token in checked]


def _did_you_mean(name: str, hints: dict[str, Any]) -> str:
    spelling = HUGGING_FACE_SPELLINGS.get(name, "")
    if spelling.split(" ")[0][2:] in hints:
        return f"Did you mean {spelling}?"
    near = nearest(name, hints)
    return f"Did you mean --{near}?" if near else "--help lists the options."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` begins or resembles, or None."""
    known = list(known)
    starting = [candidate for candidate in known if candidate.startswith(name) or candidate == f"run {name}"]
    return next(iter(starting or difflib.get_close_matches(name, known, n=1)), None)
