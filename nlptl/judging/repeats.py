"""One training several times: with several seeds, or over the folds of a cross-validation."""

import gc
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from nlptl.config import ClassificationConfig, RepeatsConfig
from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.evaluation.metrics import Score, Scores, main_metric
from nlptl.json_files import read_object
from nlptl.judging.predictions import Predictions, read_predictions, score_tables
from nlptl.training.devices import on_main
from nlptl.training.run import Run
from nlptl.wording import align_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repeat:
    """One of several runs: its seed or fold, its folder, and whether all its predictions are the same."""

    number: int
    folder: Path
    scores: dict[str, Score]
    collapsed: bool


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (that of a sample) of a score over some runs, their number, and a range.

    The range is the 95 % interval of the mean by Student's t of three seeds or more, and the lowest and the highest
    score of folds. NaN: there are too few runs.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return the numbers by name, NaN as None."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


def is_repeated(config: ClassificationConfig) -> bool:
    """Return whether a configuration asks for several runs."""
    return bool(config.repeats.seeds) or (config.repeats.folds is not None and config.repeats.fold is None)


def repeat_training(config: ClassificationConfig, train: Callable[[ClassificationConfig], Scores]) -> Scores:
    """Train with each seed, or on each fold, in a folder of its own, and log and write what the scores are on average.

    What the runs gave is in `seeds.json` or `folds.json` of `config.output_dir`. A run that predicts the same for all
    texts is named, and left out of a second average.

    Args:
        config: Settings, with `repeats`; `resume` goes on with those runs that are not finished.
        train: Trains once, in `output_dir`, and returns the scores on test.

    Returns:
        The mean of each score over the runs, n being their number. With seeds, low and high are the 95 % interval of
        the mean by Student's t, NaN of two seeds; with folds, whose scores depend on each other, the lowest and the
        highest of them.

    Raises:
        ConfigError: If there is another run in the folder, or if a seed is set beside several.
        UserError: What `train` raises.
    """
    kind = "seed" if config.repeats.seeds else "fold"
    if kind == "seed" and config.seed != type(config)().seed:
        raise ConfigError(
            f"Expected --seed or --seeds, found {config.seed} and {', '.join(map(str, config.repeats.seeds))}. Pass "
            "one of the two."
        )
    settings = _each(config, kind)
    if config.dry_run:
        logger.info("dry run of one of %d runs", len(settings))
        return train(next(iter(settings.values())))
    run = Run.open(config.output_dir, config, resume=config.resume, overwrite=config.overwrite)
    repeats = []
    for i, (number, each) in enumerate(settings.items()):
        logger.info("\n%s %d (%d of %d)", kind, number, i + 1, len(settings))
        repeats.append(_train_or_skip(number, replace(each, resume=run.resume), train))
        gc.collect()  # the model of a run is gone before the next one is loaded
    tables: list[Predictions] = []
    if kind == "fold":
        on_main(lambda: tables.extend(_read(each.folder, config) for each in repeats))
    summary = _summarize(kind, repeats)
    pooled = _pool(tables)
    run.write_json(f"{kind}s.json", _to_json(kind, repeats, summary, pooled))
    metric = main_metric(config.task, summary, chosen_by=config.train.selection_metric)
    _log(kind, repeats, summary, pooled, metric=metric)
    return Scores({name: Score(each.mean, each.low, each.high, each.n) for name, each in summary.items()})


def _each(config: ClassificationConfig, kind: str) -> dict[int, ClassificationConfig]:
    """Return the settings of each run by its seed or fold; written down, they repeat it alone."""
    once, folder = replace(config, overwrite=False), Path(config.output_dir).expanduser()
    if kind == "seed":
        alone = {seed: replace(once, seed=seed, repeats=RepeatsConfig()) for seed in config.repeats.seeds}
    else:
        folds = config.repeats.folds or 0
        alone = {n: replace(once, repeats=RepeatsConfig(folds=folds, fold=n)) for n in range(1, folds + 1)}
    return {number: replace(each, output_dir=folder / f"{kind}-{number}") for number, each in alone.items()}


def _train_or_skip(
    number: int, config: ClassificationConfig, train: Callable[[ClassificationConfig], Scores]
) -> Repeat:
    folder = config.output_dir
    if config.resume and on_main(lambda: _is_finished(config)):
        logger.info("%s is finished", folder)
        scores = _read_scores(folder)
    else:
        scores = dict(train(config))
    return Repeat(number, folder, scores, on_main(lambda: _read(folder, config).is_collapsed()))


def _is_finished(config: ClassificationConfig) -> bool:
    folder = config.output_dir
    last = "report.html" if config.judging.report else "predictions.csv"
    return "test" in read_object(folder / "scores.json") and (folder / last).exists()


def _read_scores(folder: Path) -> dict[str, Score]:
    found: dict[str, dict[str, Any]] = read_object(folder / "scores.json")["test"]
    try:
        return {name: _score(**values) for name, values in found.items() if name != "per_class"}
    except (TypeError, AttributeError) as error:
        raise UntrustedFileError(
            f"Expected scores on test in {folder / 'scores.json'}, found something else: {error!r}. Restore the file, "
            "or remove the folder, so that --resume trains this run again."
        ) from error


def _score(*, value: float | None, low: float | None, high: float | None, n: int) -> Score:
    first, second, third = (math.nan if each is None else each for each in (value, low, high))
    return Score(first, second, third, n)


def _read(folder: Path, config: ClassificationConfig) -> Predictions:
    return read_predictions(folder / "predictions.csv", config.task)


def _summarize(kind: str, repeats: Iterable[Repeat]) -> dict[str, Summary]:
    """Return mean and spread of each score over the runs that have it."""
    values: dict[str, list[float]] = {}
    for repeat in repeats:
        for name, score in repeat.scores.items():
            if math.isfinite(score.value):
                values.setdefault(name, []).append(score.value)
    return {name: _spread(kind, found) for name, found in values.items()}


def _spread(kind: str, values: Sequence[float]) -> Summary:
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Summary(mean, math.nan, n, math.nan, math.nan)
    low, high = min(values), max(values)
    if kind == "seed":  # of two, the interval would be eighteen standard deviations wide
        half = float(scipy.stats.t.ppf(0.975, n - 1) * scipy.stats.sem(values)) if n > 2 else math.nan
        low, high = mean - half, mean + half
    return Summary(mean, float(np.std(values, ddof=1)), n, low, high)


def _to_json(
    kind: str, repeats: Sequence[Repeat], summary: Mapping[str, Summary], pooled: Mapping[str, Score]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "runs": [
            {kind: each.number, "folder": each.folder.name, "scores": _plain(each.scores), "collapsed": each.collapsed}
            for each in repeats
        ],
        "summary": {name: each.to_json() for name, each in summary.items()},
    }
    if any(each.collapsed for each in repeats):
        rest = _summarize(kind, (each for each in repeats if not each.collapsed))
        found["without_collapsed"] = {name: each.to_json() for name, each in rest.items()}
    if kind == "fold":
        found["pooled"] = _plain(pooled) or None
    return found


def _pool(tables: Sequence[Predictions]) -> dict[str, Score]:
    """Return the scores of all tested texts at once, each predicted by the run that has not seen it; none: no tables.

    The main process has them, which writes.
    """
    try:
        return score_tables(*tables) if tables else {}
    except UntrustedFileError as error:
        logger.warning("the folds are not scored together: %s", error)
        return {}


def _plain(scores: Mapping[str, Score]) -> dict[str, Any]:
    found = Scores(scores).to_json()
    del found["per_class"]
    return found


def _log(
    kind: str, repeats: Sequence[Repeat], summary: Mapping[str, Summary], pooled: Mapping[str, Score], *, metric: str
) -> None:
    what = "95 % interval of the mean" if kind == "seed" else "lowest to highest"
    rows = [[f"{len(repeats)} {kind}s", "mean", "sd", what, *["all texts at once", "95 % interval"] * bool(pooled)]]
    for name, each in summary.items():
        ends = "-" if math.isnan(each.low) else f"{each.low:.4f} to {each.high:.4f}"
        row = [name, f"{each.mean:.4f}", "-" if math.isnan(each.sd) else f"{each.sd:.4f}", ends]
        if pooled:
            row += [f"{pooled[name].value:.4f}", f"{pooled[name].low:.4f} to {pooled[name].high:.4f}"]
        rows.append(row)
    logger.info("\n%s", align_table(rows))
    collapsed = [each for each in repeats if each.collapsed]
    if collapsed:
        names = ", ".join(f"{each.folder.name} ({metric} {each.scores[metric].value:.4f})" for each in collapsed)
        rest = _summarize(kind, (each for each in repeats if not each.collapsed)).get(metric)
        without = "" if rest is None else f"; {metric} without: mean {rest.mean:.4f} of {rest.n}"
        without += "" if rest is None or rest.n < 2 else f", sd {rest.sd:.4f}"
        logger.warning(
            "%d of %d runs predict the same for all texts: %s%s", len(collapsed), len(repeats), names, without
        )
