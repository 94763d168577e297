"""Reads the files of a run that a report is made from. Nothing here knows torch."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlptl.config import ClassificationConfig, TaskKind, flat, to_json
from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.evaluation.metrics import METRICS, main_metric
from nlptl.formats import translated
from nlptl.json_files import read_object
from nlptl.printable import printable

SPLITS = ("train", "validation", "test")

LONGEST = 2000
"""Characters of a string that are read; a report shows no more."""


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run say; those that are not there are empty.

    Every string has been made printable, and cut to LONGEST characters.
    """

    folder: Path
    settings: dict[str, Any]
    """Of config.json, all on one level."""
    manifest: dict[str, Any]
    data: dict[str, Any]
    """Of data_report.json."""
    scores: dict[str, Any]
    records: list[dict[str, Any]]
    """Of metrics.jsonl."""
    analysis: dict[str, Any]
    baselines: dict[str, Any]
    costs: dict[str, Any]
    seeds: dict[str, Any]
    folds: dict[str, Any]
    sizes: dict[str, int]
    """Texts of each split."""
    model: dict[str, Any]
    """Of model/nlptl.json."""

    @property
    def task(self) -> TaskKind:
        """The kind of task."""
        kind: TaskKind = self.manifest.get("task") or self.settings.get("task") or "single_label"
        return kind

    @property
    def split(self) -> str:
        """The split that is reported: test, or else validation."""
        return next(split for split in ("test", "validation") if split in self.scores)

    @property
    def repeats(self) -> tuple[dict[str, Any], str]:
        """What seeds.json or folds.json says, and which of them it is, seed or fold."""
        return (self.seeds, "seed") if self.seeds else (self.folds, "fold")

    @property
    def metric(self) -> str:
        """The score that heads the report: the one that chose the model, if it was computed on this split."""
        scores = self.scores[self.split] if self.scores else self.repeats[0]["summary"]
        return main_metric(self.task, scores, chosen_by=self.chosen_by)

    @property
    def is_calibrated_anew(self) -> bool:
        """Whether `nlptl calibrate` has changed the model since it was scored."""
        chosen = self.analysis.get("chosen") or {}
        return any(key in self.model and self.model[key] != value for key, value in chosen.items())

    @property
    def chosen_by(self) -> str:
        """The score on validation by which the model was chosen."""
        return str(self.settings.get("selection_metric") or METRICS[self.task][0])

    @property
    def baseline(self) -> tuple[str, dict[str, Any]] | None:
        """The name and the scores of the baseline that has read no text."""
        found = [(key, of) for key, of in self.scores.items() if key not in SPLITS and self.split in of]
        return (found[0][0].replace("_", " "), found[0][1][self.split]) if found else None


def read_run(folder: Path) -> RunFiles:
    """Read what a report needs from the folder of a run.

    Raises:
        ConfigError: If it is no run, or one that has no scores yet.
        UntrustedFileError: If a file is damaged.
    """
    if not (folder / "config.json").is_file():
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        raise ConfigError(f"Expected the folder of a run at {folder}, found {found}. Pass the --output-dir of a run.")
    scores, seeds, folds = (_object(folder / name) for name in ("scores.json", "seeds.json", "folds.json"))
    if not any(split in scores for split in ("test", "validation")) and not (seeds or folds):
        raise ConfigError(
            f"Expected a run with scores in {folder}, found none in scores.json. Let it end first: the command that "
            "started it, with --resume."
        )
    return RunFiles(
        folder=folder,
        settings=translated(flat(_object(folder / "config.json"))),
        manifest=_object(folder / "manifest.json"),
        data=_object(folder / "data_report.json"),
        scores=scores,
        records=_records(folder / "metrics.jsonl"),
        analysis=_object(folder / "analysis.json"),
        baselines=_object(folder / "baselines.json"),
        costs=_object(folder / "costs.json"),
        seeds=seeds,
        folds=folds,
        sizes={split: len(rows) for split, rows in _object(folder / "splits.json").items()},
        model=_object(folder / "model" / "nlptl.json"),
    )


def hub_id(source: str) -> str | None:
    """Return the name on the Hub, without a revision, that a setting means; None for samples and for what is here."""
    found = re.fullmatch(r"([\w-]+|[\w-][\w.-]*/[\w-][\w.-]*)(:[\w.-]+)?(@[\w./-]+)?", source)
    is_here = source.startswith("sample:") or Path(source).expanduser().exists()
    return None if found is None or is_here else found[1]


def public_name(source: str) -> str:
    """Return the name of an encoder or a data set without the folders that lead to it on somebody's machine."""
    return hub_id(source) or (source if source.startswith("sample:") else Path(source).name or "data")


def differing(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not as they are where nothing is said."""
    defaults = flat(to_json(ClassificationConfig()))
    places = {field.name for field in dataclasses.fields(ClassificationConfig)} & {"output_dir"}
    return {k: v for k, v in settings.items() if k not in places and (k not in defaults or defaults[k] != v)}


def _object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; empty, if there is no such file."""
    values: dict[str, Any] = _clean(read_object(path))
    return values


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        values = [_clean(json.loads(line)) for line in lines if line.endswith("}")]  # not one torn by a crash
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        raise UntrustedFileError(
            f"Expected JSON objects, a line each, in {path}, cannot read it: {error}. Restore the file from a copy, or "
            "move it away: there is a report without it, too."
        ) from error
    return [value for value in values if isinstance(value, dict) and isinstance(value.get("step"), int)]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        cut = len(value) - LONGEST
        return printable(value) if cut <= 0 else f"{printable(value[:LONGEST])} ... ({cut:,} more characters)"
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value
