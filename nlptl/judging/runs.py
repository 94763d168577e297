"""Finished runs that can be compared: their settings, scores, costs and predictions, read without torch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlptl.config import ClassificationConfig, TaskKind, flat, to_json
from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.evaluation.metrics import METRICS, main_metric
from nlptl.judging.predictions import Predictions, read_predictions, scorer
from nlptl.judging.run_files import RunFiles

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
    """The settings in `config.json`, without nesting."""
    scores: dict[str, dict[str, Any]]
    """Value, low, high and n on test, by metric."""
    costs: dict[str, Any]
    test_sha256: str | None
    """Hash of the texts and labels of test; None if the run did not record it."""
    predictions: Predictions


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read finished runs. Other folders are skipped with a warning, if two or more runs remain.

    Raises:
        ConfigError: If too few folders hold a finished run, or the runs differ in their kind of task or test data.
        UntrustedFileError: If a file is damaged, or predictions and scores are from different runs.
    """
    folders = list(dict.fromkeys(Path(folder).expanduser() for folder in folders))
    if not folders:
        raise ConfigError("Expected the folders of runs, found none. Pass for example runs/*.")
    flaws = {folder: flaw for folder in folders if (flaw := _flaw(folder)) is not None}
    kept = [folder for folder in folders if folder not in flaws]
    if not kept or (flaws and len(kept) == 1):
        found = "; ".join(f"{folder} {flaw}" for folder, flaw in flaws.items())
        raise ConfigError(f"Expected the folders of finished runs, found others: {found}. Pass finished runs.")
    for folder, flaw in flaws.items():
        logger.warning("skipped: %s %s", folder, flaw)
    runs = [_read_run(folder, name) for folder, name in zip(kept, _short_names(kept), strict=True)]
    _check_comparable(runs)
    return runs


def differing_settings(runs: Sequence[FinishedRun]) -> dict[str, list[Any]]:
    """Return the settings that differ between runs, with the value of each run; the output folder is left out.

    A setting that is newer than a run has its default there; None if a run from Python does not have it.
    """
    defaults = flat(to_json(ClassificationConfig()))
    settings = [(defaults if "dataset" in run.settings else {}) | run.settings for run in runs]
    names = list(dict.fromkeys(name for run in runs for name in run.settings if name != "output_dir"))
    values = {name: [each.get(name) for each in settings] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def _flaw(folder: Path) -> str | None:
    """Return why a folder is not a finished run; None if it is one."""
    if not folder.is_dir():
        return "is not a folder"
    for file, pattern in _SEVERAL.items():
        if (folder / file).exists() or any(folder.glob(f"{pattern}/config.json")):
            return f"holds several runs: pass {folder}/{pattern}"
    if not (folder / "config.json").exists() or (folder / "nlptl.json").exists():
        return "is not the folder of a run"
    if "test" not in RunFiles(folder).scores or not (folder / "predictions.csv").exists():
        return "has no scores on test yet: continue it with --resume"
    return None


def _read_run(folder: Path, name: str) -> FinishedRun:
    run = RunFiles(folder)
    kind = run.settings.get("task", run.manifest.get("task"))
    if kind not in METRICS:
        raise UntrustedFileError(
            f"Expected the kind of task in {folder / 'manifest.json'}, found {kind!r}. Restore the file from a copy."
        )
    predictions = read_predictions(folder / "predictions.csv", kind)
    values = scorer(predictions).points()
    scores = run.scores_of("test")
    metric = main_metric(kind, scores)
    score = scores.get(metric)
    written = score.get("value") if isinstance(score, dict) else None
    if written is None or abs(written - values[metric]) > _TOLERANCE:
        raise UntrustedFileError(
            f"Expected scores.json and predictions.csv of one run in {folder}, found {metric} {written} in the first "
            f"and {values[metric]:.6g} from the second. Restore them from a copy, or train again."
        )
    return FinishedRun(name, folder, kind, run.settings, scores, run.costs, run.data.get("test_sha256"), predictions)


def _check_comparable(runs: Sequence[FinishedRun]) -> None:
    if len({run.kind for run in runs}) > 1:
        found = ", ".join(f"{run.name} ({run.kind})" for run in runs)
        raise ConfigError(f"Expected runs of one kind of task, found {found}. Compare runs of one kind.")
    groups: list[list[FinishedRun]] = []
    for run in runs:
        for group in groups:
            if _has_same_test(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    if len(groups) > 1:
        found = "; ".join(
            f"{', '.join(run.name for run in group)} ({len(group[0].predictions):,} texts)" for group in groups
        )
        raise ConfigError(
            f"Expected runs with the same test data, found {len(groups)} different test splits: {found}. Compare runs "
            "with one of them; --split-seed and --max-examples change the test split."
        )


def _has_same_test(a: FinishedRun, b: FinishedRun) -> bool:
    if a.test_sha256 is not None and b.test_sha256 is not None and a.test_sha256 != b.test_sha256:
        return False
    return (a.predictions.rows, a.predictions.labels) == (b.predictions.rows, b.predictions.labels)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Return the paths of folders without their common beginning."""
    parts = [folder.absolute().parts for folder in folders]
    common = 0
    while all(len(each) > common + 1 for each in parts) and len({each[common] for each in parts}) == 1:
        common += 1
    return ["/".join(each[common:]) for each in parts]
