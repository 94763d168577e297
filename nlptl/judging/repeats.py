"""Repeat a training with several seeds, or over the folds of a cross-validation."""

import gc
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from nlptl.config import ClassificationConfig, RepeatsConfig, to_json
from nlptl.errors import ConfigError, UntrustedFileError
from nlptl.evaluation.metrics import Score, Scorer, Scores, main_metric
from nlptl.judging.predictions import Predictions, read_predictions, scorer
from nlptl.judging.run_files import RunFiles
from nlptl.training.devices import on_main
from nlptl.training.run import Run
from nlptl.wording import align_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repeat:
    """One of several runs. `number` is its seed or fold; it collapsed if all its predictions are the same."""

    number: int
    folder: Path
    scores: dict[str, Score]
    collapsed: bool


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation, number and range of a score over several runs.

    With seeds the range is the 95 % interval of the mean by Student's t (NaN for two seeds), with folds the lowest and
    the highest score. The standard deviation and the range of a single run are NaN.
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float


def is_repeated(config: ClassificationConfig) -> bool:
    """Return whether a configuration has several runs."""
    return bool(config.repeats.seeds) or (config.repeats.folds is not None and config.repeats.fold is None)


def repeat_training(config: ClassificationConfig, train: Callable[[ClassificationConfig], Scores]) -> Scores:
    """Train with each seed, or on each fold, in a subfolder each; log the mean scores and write them.

    The scores of all runs are in `seeds.json` or `folds.json` of `config.output_dir`. Runs that predict the same for
    all texts are listed, with the mean over the other runs.

    Args:
        config: Settings, with `repeats`; `resume` continues the unfinished runs.
        train: Trains once, in `output_dir`, and returns the scores on test.

    Returns:
        The mean of each score over the runs, with the number of runs as n; low and high are those of `Summary`.

    Raises:
        ConfigError: If the folder holds another run, or both `seed` and `seeds` are set.
        UserError: Whatever `train` raises.
    """
    kind = "seed" if config.repeats.seeds else "fold"
    if kind == "seed" and config.seed != type(config)().seed:
        raise ConfigError(
            f"Expected --seed or --seeds, found both: {config.seed} and "
            f"{', '.join(map(str, config.repeats.seeds))}. Pass one of them."
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
        gc.collect()  # frees the model of this run before the next one is loaded
    pooled: dict[str, Score] = {}
    if kind == "fold":
        on_main(lambda: pooled.update(_pool([_read(each.folder, config) for each in repeats])))
    summary = _summarize(kind, repeats)
    run.write_json(f"{kind}s.json", _table(kind, repeats, summary, pooled))
    metric = main_metric(config.task, summary, chosen_by=config.train.selection_metric)
    _log(kind, repeats, summary, pooled, metric=metric)
    return Scores({name: Score(each.mean, each.low, each.high, each.n) for name, each in summary.items()})


def _each(config: ClassificationConfig, kind: str) -> dict[int, ClassificationConfig]:
    """Return the settings of each run, by seed or fold; they also repeat this run on its own."""
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
    last = folder / ("report.html" if config.judging.report else "predictions.csv")
    if config.resume and on_main(lambda: "test" in RunFiles(folder).scores and last.exists()):
        logger.info("%s is finished", folder)
        scores = _read_scores(folder)
    else:
        scores = dict(train(config))
    return Repeat(number, folder, scores, on_main(lambda: _read(folder, config).is_collapsed()))


def _read_scores(folder: Path) -> dict[str, Score]:
    def number(value: Any) -> Any:
        return math.nan if value is None else value

    try:
        found = RunFiles(folder).scores_of("test")
        return {name: Score(**{key: number(value) for key, value in each.items()}) for name, each in found.items()}
    except (TypeError, AttributeError) as error:
        raise UntrustedFileError(
            f"Expected scores on test in {folder / 'scores.json'}, found something else: {error!r}. Restore the file, "
            "or remove the folder, so that --resume trains this run again."
        ) from error


def _read(folder: Path, config: ClassificationConfig) -> Predictions:
    return read_predictions(folder / "predictions.csv", config.task)


def _summarize(kind: str, repeats: Iterable[Repeat]) -> dict[str, Summary]:
    values: dict[str, list[float]] = {}
    for name, score in (item for repeat in repeats for item in repeat.scores.items()):
        if math.isfinite(score.value):
            values.setdefault(name, []).append(score.value)
    return {name: _spread(kind, found) for name, found in values.items()}


def _spread(kind: str, values: Sequence[float]) -> Summary:
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Summary(mean, math.nan, n, math.nan, math.nan)
    low, high = min(values), max(values)
    if kind == "seed":  # with two, the interval would be eighteen standard deviations wide
        half = float(scipy.stats.t.ppf(0.975, n - 1) * scipy.stats.sem(values)) if n > 2 else math.nan
        low, high = mean - half, mean + half
    return Summary(mean, float(np.std(values, ddof=1)), n, low, high)


def _table(
    kind: str, repeats: Sequence[Repeat], summary: Mapping[str, Summary], pooled: Mapping[str, Score]
) -> dict[str, Any]:
    """Return the content of seeds.json or folds.json."""
    runs = [
        {kind: each.number, "folder": each.folder.name, "scores": each.scores, "collapsed": each.collapsed}
        for each in repeats
    ]
    found: dict[str, Any] = {"runs": runs, "summary": summary}
    if any(each.collapsed for each in repeats):
        found["without_collapsed"] = _summarize(kind, (each for each in repeats if not each.collapsed))
    if kind == "fold":
        found["pooled"] = pooled or None
    return to_json(found)


def _pool(tables: Sequence[Predictions]) -> dict[str, Score]:
    """Return the scores over the texts of all folds, each predicted by the run that was not trained on it."""
    try:
        whole = scorer(*tables)
        return Scorer(whole.weighted, whole.num_rows).score()  # without those of each class
    except UntrustedFileError as error:
        logger.warning("cannot score all folds together: %s", error)
        return {}


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
    collapsed = [f"{e.folder.name} ({metric} {e.scores[metric].value:.4f})" for e in repeats if e.collapsed]
    if collapsed:
        rest = _summarize(kind, (each for each in repeats if not each.collapsed)).get(metric)
        without = "" if rest is None else f"; {metric} without: mean {rest.mean:.4f} of {rest.n}"
        without += "" if rest is None or rest.n < 2 else f", sd {rest.sd:.4f}"
        found = (len(collapsed), len(repeats), ", ".join(collapsed), without)
        logger.warning("%d of %d runs predict the same for all texts: %s%s", *found)
