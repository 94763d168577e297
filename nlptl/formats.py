"""Format numbers of the files that nlptl writes, and how settings written by an earlier version are read.

nlptl 0.1.0 wrote format 1; its config.json has no number. To delete or rename a setting, add a line below.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlptl.errors import ConfigError

CONFIG_FORMAT = 2
"""Format of config.json, the settings of a run."""

CARD_FORMAT = 2
"""Format of nlptl.json, the settings of a saved model."""

CHECKPOINT_FORMAT = 4
"""Format of a checkpoint. That of nlptl 0.1.0 is 3; it also holds the moving averages of ema_decay."""

DELETED: dict[str, tuple[Any, ...]] = {
    "mixout": (0.0,),
    "l2_sp": (0.0,),
    "fgm": (0.0,),
    "ema_decay": (None,),
    "wise_ft": (None,),
    "r_drop": (0.0,),
    "sparse_embeddings": (True, False),  # the same updates either way
    "conformal_score": (None, "lac"),
    "neighbors": (None, 5),
    "keep_adapter": (True, False),  # with LoRA it is always kept
}
"""Settings that no longer exist, each with the values that may be dropped: those that switched nothing on."""

DELETED_VALUES = {"head": ("knn",), "texts_shown": ("masked",), "score": ("aps",)}
"""Values that a setting can no longer have."""

RENAMED: dict[str, str] = {}
"""New names of settings, by the old ones."""


def check_format(found: object, latest: int, path: Path) -> None:
    """Check the format number of a file.

    Raises:
        ConfigError: If a newer version of nlptl wrote the file, or it is not a format number.
    """
    if type(found) is not int or found < 1:
        raise ConfigError(f"{path} has format {found!r}, which is not a number from 1 up. Restore it from a copy.")
    if found > latest:
        raise ConfigError(
            f"{path} has format {found}, and this version reads formats up to {latest}: it was written by a newer "
            "nlptl. Update nlptl to read it."
        )


def current_settings(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the settings in a file under their current names, without the file's format number.

    Raises:
        ConfigError: If a setting that was deleted is in use.
    """
    if used := _deleted_in_use(values):
        raise ConfigError(
            f"{path} has {', '.join(used)}, which nlptl 0.2.0 removed. Use nlptl 0.1.0, which still has it, or train "
            "again without it."
        )
    return translated(values)


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under their current names, without deleted ones that had no effect; unknown ones stay."""
    kept = {name: value for name, value in values.items() if name != "format" and value not in DELETED.get(name, ())}
    return {
        RENAMED.get(name, name): translated(value) if isinstance(value, Mapping) else value
        for name, value in kept.items()
    }


def _deleted_in_use(values: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _deleted_in_use(value)
        elif value in DELETED_VALUES.get(name, ()) or (name in DELETED and value not in DELETED[name]):
            found.append(f"{name}={value!r}")
    return found
