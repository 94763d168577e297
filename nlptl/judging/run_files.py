"""Reads the files of a run. Nothing here imports torch."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
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
"""Characters to which strings are cut."""


def _file(*path: str) -> "cached_property[dict[str, Any]]":
    return cached_property(lambda run: _clean(read_object(run.folder.joinpath(*path))))


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, each read when it is first used; a missing file is empty.

    Strings are made printable and cut to LONGEST characters. A damaged file raises UntrustedFileError.
    """

    folder: Path

    manifest = _file("manifest.json")
    data = _file("data_report.json")
    scores = _file("scores.json")
    analysis = _file("analysis.json")
    baselines = _file("baselines.json")
    costs = _file("costs.json")
    seeds = _file("seeds.json")
    folds = _file("folds.json")
    model = _file("model", "nlptl.json")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings in config.json, without nesting."""
        return translated(flat(_clean(read_object(self.folder / "config.json"))))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of texts of each split."""
        return {split: len(rows) for split, rows in read_object(self.folder / "splits.json").items()}

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl that have a step, except a line that a crash cut short."""
        path = self.folder / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            values = [_clean(json.loads(line)) for line in lines if line.endswith("}")]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            raise UntrustedFileError(
                f"Expected a JSON object in each line of {path}, cannot read it: {error}. Restore the file from a "
                "copy, or move it away: the report can be written without it."
            ) from error
        return [value for value in values if isinstance(value, dict) and isinstance(value.get("step"), int)]

    def scores_of(self, split: str) -> dict[str, dict[str, Any]]:
        """Return the scores on a split by metric, without those of each class."""
        return {name: score for name, score in self.scores[split].items() if name != "per_class"}

    @property
    def task(self) -> TaskKind:
        """The kind of task."""
        kind: TaskKind = self.manifest.get("task") or self.settings.get("task") or "single_label"
        return kind

    @property
    def split(self) -> str:
        """The reported split: test, or validation if there are no scores on test."""
        return next(split for split in ("test", "validation") if split in self.scores)

    @property
    def repeats(self) -> tuple[dict[str, Any], str]:
        """The content of seeds.json or folds.json, and "seed" or "fold"."""
        return (self.seeds, "seed") if self.seeds else (self.folds, "fold")

    @property
    def metric(self) -> str:
        """The main score of the report: the one that chose the model, if it was computed on this split."""
        scores = self.scores[self.split] if self.scores else self.repeats[0]["summary"]
        return main_metric(self.task, scores, chosen_by=self.chosen_by)

    @property
    def chosen_by(self) -> str:
        """The score on validation that chose the model."""
        return str(self.settings.get("selection_metric") or METRICS[self.task][0])

    @property
    def is_recalibrated(self) -> bool:
        """Whether `nlptl calibrate` changed the model after it was scored."""
        chosen = self.analysis.get("chosen") or {}
        return any(key in self.model and self.model[key] != value for key, value in chosen.items())

    @property
    def cut_share(self) -> float:
        """The fraction of texts of the reported split that are longer than the model reads."""
        return float((self.data.get("truncation", {}).get(self.split) or {}).get("cut_texts") or 0.0)

    @property
    def baseline(self) -> tuple[str, dict[str, Any]] | None:
        """The name and the scores of the baseline that reads no text."""
        found = [(key, of) for key, of in self.scores.items() if key not in SPLITS and self.split in of]
        return (found[0][0].replace("_", " "), found[0][1][self.split]) if found else None


def read_run(folder: Path) -> RunFiles:
    """Return the files of a run that has scores.

    Raises:
        ConfigError: If it is not a run, or has no scores yet.
        UntrustedFileError: If a file is damaged.
    """
    if not (folder / "config.json").is_file():
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        raise ConfigError(f"Expected the folder of a run at {folder}, found {found}. Pass the --output-dir of a run.")
    run = RunFiles(folder)
    if not any(split in run.scores for split in ("test", "validation")) and not run.repeats[0]:
        raise ConfigError(
            f"Expected a run with scores in {folder}, found none in scores.json. Let the run finish first: repeat its "
            "command with --resume."
        )
    return run


def hub_id(source: str) -> str | None:
    """Return the Hub name, without a revision, in a setting; None for samples and local paths."""
    found = re.fullmatch(r"([\w-]+|[\w-][\w.-]*/[\w-][\w.-]*)(:[\w.-]+)?(@[\w./-]+)?", source)
    is_local = source.startswith("sample:") or Path(source).expanduser().exists()
    return None if found is None or is_local else found[1]


def public_name(source: str) -> str:
    """Return the name of an encoder or data set without the path of its folder, which may be private."""
    return hub_id(source) or (source if source.startswith("sample:") else Path(source).name or "data")


def differing(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults, except the output folder."""
    defaults = flat(to_json(ClassificationConfig()))

    return {k: v for k, v in settings.items() if k != "output_dir" and (k not in defaults or defaults[k] != v)}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        cut = len(value) - LONGEST
        return printable(value) if cut <= 0 else f"{printable(value[:LONGEST])} ... ({cut:,} more characters)"
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value
