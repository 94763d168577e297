"""Finished runs, as their folders tell of them: settings, scores, costs, predictions; without a model, or torch."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlptl.config import ClassificationConfig, TaskKind, flat, to_json
from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.evaluation.metrics import METRICS, main_metric, point_values
from nlptl.formats import translated
from nlptl.json_files import read_object
from nlptl.judging.predictions import Predictions, read_predictions, weighted_scores

logger = logging.getLogger(__name__)

_SEVERAL = {"seeds.json": "seed-*", "folds.json": "fold-*"}
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class FinishedRun:
    """A run that has been scored on test."""

    name: str
    folder: Path
    kind: TaskKind
    settings: dict[str, Any]
    """From `config.json`, all on one level."""
    scores: dict[str, dict[str, Any]]
    """On test: by metric, value, low, high and n."""
    costs: dict[str, Any]
    test_sha256: str | None
    """Hash of the texts and labels of test; None: the run does not say."""
    predictions: Predictions


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read the runs in some folders; what is no finished run is left out, and said to be, where others remain.

    Raises:
        ConfigError: If none of several is a finished run but one, or if they are of different kinds of tasks or have
            different test data.
        UntrustedFileError: If a file is damaged, or predictions and scores are not of one run.
    """
    folders = list(dict.fromkeys(Path(folder).expanduser() for folder in folders))
    if not folders:
        raise ConfigError("Expected the folders of runs, found none. Pass for instance runs/*.")
    flaws = {folder: flaw for folder in folders if (flaw := _flaw(folder)) is not None}
    kept = [folder for folder in folders if folder not in flaws]
    if not kept or (flaws and len(kept) == 1):
        found = "; ".join(f"{folder} {flaw}" for folder, flaw in flaws.items())
        raise ConfigError(f"Expected the folders of finished runs, found others: {found}. Pass those of runs.")
    for folder, flaw in flaws.items():
        logger.warning("left out: %s %s", folder, flaw)
    runs = [_read_run(folder, name) for folder, name in zip(kept, _short_names(kept), strict=True)]
    _check_comparable(runs)
    return runs


def differing_settings(runs: Sequence[FinishedRun]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, with the value of each run; where it is written is left out.

    A setting that a recipe did not have yet when it was run has its default; None: a run from Python does not have it.
    """
    defaults = flat(to_json(ClassificationConfig()))
    settings = [(defaults if "dataset" in run.settings else {}) | run.settings for run in runs]
    names = list(dict.fromkeys(name for run in runs for name in run.settings if name != "output_dir"))
    values = {name: [each.get(name) for each in settings] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def _flaw(folder: Path) -> str | None:
    """Return why a folder is no finished run; None: it is one."""
    if not folder.is_dir():
        return "is no folder"
    for file, pattern in _SEVERAL.items():
        if (folder / file).exists() or any(folder.glob(f"{pattern}/config.json")):
            return f"holds several runs: pass {folder}/{pattern}"
    if not (folder / "config.json").exists() or (folder / "nlptl.json").exists():
        return "is not the folder of a run"
    if "test" not in read_object(folder / "scores.json") or not (folder / "predictions.csv").exists():
        return "is a run that has not been scored on test yet: go on with --resume"
    return None


def _read_run(folder: Path, name: str) -> FinishedRun:
    settings = translated(flat(read_object(folder / "config.json")))
    manifest = read_object(folder / "manifest.json")
    kind = settings.get("task", manifest.get("task"))
    if kind not in METRICS:
        raise UntrustedFileError(
            f"Expected the kind of task in {folder / 'manifest.json'}, found {kind!r}. Restore the file from a copy."
        )
    predictions = read_predictions(folder / "predictions.csv", kind)
    scores = {
        metric: score
        for metric, score in read_object(folder / "scores.json")["test"].items()
        if isinstance(score, dict) and "value" in score
    }
    _check_scores(folder, scores, predictions)
    sha256 = read_object(folder / "data_report.json").get("test_sha256")
    return FinishedRun(name, folder, kind, settings, scores, read_object(folder / "costs.json"), sha256, predictions)


def _check_scores(folder: Path, scores: Mapping[str, Any], predictions: Predictions) -> None:
    """Refuse predictions that do not give the scores in scores.json."""
    values = point_values(weighted_scores(predictions), len(predictions))
    metric = main_metric(predictions.kind, scores)
    written = scores.get(metric, {}).get("value")
    if written is None or abs(written - values[metric]) > _TOLERANCE:
        raise UntrustedFileError(
            f"Expected scores.json and predictions.csv of one run in {folder}, found {metric} {written} in the one and "
            f"{values[metric]:.6g} from the other. Restore them from a copy, or train again."
        )


def _check_comparable(runs: Sequence[FinishedRun]) -> None:
    kinds = {run.name: run.kind for run in runs}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ConfigError(f"Expected runs of one kind of task, found {found}. Compare those of one kind.")
    groups: list[list[FinishedRun]] = []
    for run in runs:
        group = next((group for group in groups if _has_same_test(group[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    if len(groups) > 1:
        found = "; ".join(
            f"{', '.join(run.name for run in group)} ({len(group[0].predictions):,} texts)" for group in groups
        )
        raise ConfigError(
            f"Expected runs with the same test data, found {len(groups)} different test splits: {found}. Compare runs "
            "with one of them; --split-seed and --max-examples change what is set aside for test."
        )


def _has_same_test(a: FinishedRun, b: FinishedRun) -> bool:
    if a.test_sha256 is not None and b.test_sha256 is not None and a.test_sha256 != b.test_sha256:
        return False
    return (a.predictions.rows, a.predictions.labels) == (b.predictions.rows, b.predictions.labels)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Return the names of folders without what they have in common at the beginning."""
    parts = [folder.absolute().parts for folder in folders]
    common = 0
    while all(len(each) > common + 1 for each in parts) and len({each[common] for each in parts}) == 1:
        common += 1
    return ["/".join(each[common:]) for each in parts]
