"""Compare runs on the same test split: `nlptl compare`."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nlptl.data.writers import check_output, write_json
from nlptl.errors import ConfigError
from nlptl.evaluation.comparison import (
    Difference,
    holm,
    mcnemar,
    paired_bootstrap,
    randomization_test,
    smallest_accuracy_difference,
    smallest_difference,
)
from nlptl.evaluation.metrics import LOWER_IS_BETTER, main_metric, sign_of
from nlptl.judging.predictions import scorer
from nlptl.judging.runs import FinishedRun, differing_settings, read_runs
from nlptl.values import Seed, check_fields
from nlptl.wording import align_table, markdown_table

logger = logging.getLogger(__name__)

LEVEL, POWER = 0.05, 0.8
DETECTABLE = "the smallest true difference detected in four of five cases"
PAIRS_SHOWN = 10
"""With more pairs than this, the table shows only pairs with the best run."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare runs on the same test split: scores, differing settings, and tests of the differences."""

    runs: tuple[Path, ...]
    """Folders of runs, such as runs/*; unfinished runs are skipped."""
    metric: str | None = None
    """Score to test. None: the --selection-metric shared by all runs, otherwise the default of the task."""
    metrics: tuple[str, ...] = ()
    """More scores for the table, such as macro_f1."""
    resamples: int = 2000
    """Resamples of the test split for each interval and each test."""
    seed: Seed = 0
    """Seed of the resamples."""
    output: Path | None = None
    """JSON file for the results; an existing one is replaced. None: only print the tables."""
    markdown: bool = False
    """Print the tables as Markdown, for example for a pull request."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Comparison:
    """Two runs, the better score first, with the tests of their difference."""

    first: str
    second: str
    difference: Difference
    p_randomization: float
    p_corrected: float
    """p_randomization, corrected by Holm for the number of pairs."""
    p_mcnemar: float | None
    smallest_difference: float | None
    """The smallest true difference that such a test set detects in four of five cases."""

    @property
    def is_significant(self) -> bool:
        """Whether chance alone gives such a difference between any two of the runs in at most 5 % of cases."""
        return self.p_corrected <= LEVEL


def compare(config: CompareConfig) -> list[Comparison]:
    """Log tables of the runs, their settings and the tests, and which run is better if the test split can tell.

    Returns:
        All pairs of runs, ordered by score.

    Raises:
        ConfigError: If too few folders hold a finished run, or the runs differ in their kind of task or test data.
        UntrustedFileError: If a file of a run is damaged.
        ResourceError: If the output cannot be written.
    """
    if config.output is not None:
        check_output(config.output, suffixes=(".json",))
    runs = read_runs(config.runs)
    metric = _metric(runs, config)
    runs.sort(key=lambda run: -sign_of(metric) * run.scores[metric]["value"])
    comparisons = _test_pairs(runs, metric, config)
    differing, sentence = differing_settings(runs), _conclude(runs, comparisons, metric)
    show = markdown_table if config.markdown else align_table
    logger.info("\n%s", show(_run_rows(runs, [metric, *(name for name in config.metrics if name != metric)])))
    if differing:
        rows = [[name, *("-" if value is None else str(value) for value in each)] for name, each in differing.items()]
        logger.info("\n%s", show([["setting", *(run.name for run in runs)], *rows]))
    elif len(runs) > 1:
        logger.info("\nno settings differ")
    shown = comparisons if len(comparisons) <= PAIRS_SHOWN else comparisons[: len(runs) - 1]
    if shown:
        logger.info("\n%s", show(_pair_rows(shown, metric)))
    logger.info("\n%s", sentence)
    if config.output is not None:
        names = [run.name for run in runs]
        values = {
            "task": runs[0].kind,
            "metric": metric,
            "n": len(runs[0].predictions),
            "runs": [{"name": r.name, "folder": str(r.folder), "scores": r.scores, "costs": r.costs} for r in runs],
            "settings": {name: dict(zip(names, each, strict=True)) for name, each in differing.items()},
            "comparisons": [asdict(each) for each in comparisons],
            "conclusion": sentence,
        }
        write_json(config.output, values)
        logger.info("\nwrote the comparison to %s", config.output)
    return comparisons


def _metric(runs: Sequence[FinishedRun], config: CompareConfig) -> str:
    known = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    chosen_by = {run.settings.get("selection_metric") for run in runs}
    shared = chosen_by.pop() if len(chosen_by) == 1 else None
    metric = config.metric or main_metric(runs[0].kind, known, chosen_by=shared)
    unknown = [name for name in (metric, *config.metrics) if name not in known]
    if unknown:
        raise ConfigError(
            f"Expected scores of these runs ({', '.join(known)}), found {', '.join(unknown)}. Pass one of these."
        )
    return metric


def _test_pairs(runs: Sequence[FinishedRun], metric: str, config: CompareConfig) -> list[Comparison]:
    """Compare all pairs of `runs`, which are ordered by score."""
    found = [_test_pair(a, b, metric, config) for a, b in itertools.combinations(runs, 2)]
    corrected = holm([each.p_randomization for each in found]).tolist()
    return [replace(each, p_corrected=p_value) for each, p_value in zip(found, corrected, strict=True)]


def _test_pair(a: FinishedRun, b: FinishedRun, metric: str, config: CompareConfig) -> Comparison:
    num_rows = len(a.predictions)
    score_a, score_b = scorer(a.predictions).weighted, scorer(b.predictions).weighted
    differences = paired_bootstrap(score_a, score_b, num_rows, resamples=config.resamples, seed=config.seed)
    if metric not in differences:
        raise ConfigError(
            f"Expected a score that predictions.csv determines ({', '.join(differences)}), found {metric}. Pass one of "
            "them as --metric."
        )
    both = scorer(a.predictions, b.predictions).weighted
    p_value = randomization_test(both, num_rows, resamples=config.resamples, seed=config.seed)[metric]
    p_mcnemar = None
    smallest: float | None = smallest_difference(differences[metric].standard_error, level=LEVEL, power=POWER)
    a_correct, b_correct = a.predictions.is_correct(), b.predictions.is_correct()
    if a_correct is not None and b_correct is not None:
        p_mcnemar = mcnemar(a_correct, b_correct)
        if metric == "accuracy":
            discordant = float((a_correct != b_correct).mean())
            smallest = smallest_accuracy_difference(num_rows, discordant, level=LEVEL, power=POWER)
    if differences[metric].standard_error == 0:  # equal predictions tell nothing about detectable differences
        smallest = None
    return Comparison(a.name, b.name, differences[metric], p_value, p_value, p_mcnemar, smallest)


def _conclude(runs: Sequence[FinishedRun], comparisons: Sequence[Comparison], metric: str) -> str:
    """Return the result of the tests of the best run, in sentences."""
    texts = f"{len(runs[0].predictions):,} texts"
    if len(runs) == 1:
        return _describe_one(runs[0], metric, texts)
    sign, more = sign_of(metric), "lower" if metric in LOWER_IS_BETTER else "higher"
    worse, alike, best = [], [], runs[0].name
    for each in comparisons[: len(runs) - 1]:
        value, p_value = each.difference, f"p = {_p(each.p_corrected)}"
        if each.is_significant:
            low, high = sorted((sign * value.low, sign * value.high))
            interval = f"95 % interval {low:.4f} to {high:.4f}"
            worse.append(f"{each.second}: {metric} {sign * value.value:.4f} {more} ({interval}, {p_value})")
        else:
            limit = "; they predict the same" if value.standard_error == 0 else ""
            if each.smallest_difference is not None:
                limit = f"; {DETECTABLE} is {each.smallest_difference:.4f}"
            alike.append(f"{each.second} ({metric} {sign * value.value:.4f} {more}, {p_value}{limit})")
    sentences = [f"{best} is better than {'; and than '.join(worse)}."] * bool(worse)
    if alike:
        sentences.append(f"A test set of {texts} cannot tell {best} from {' or from '.join(alike)}.")
    if len(comparisons) > 1:
        sentences.append(f"p-values are corrected for {len(comparisons)} pairs.")
    return " ".join(sentences)


def _describe_one(run: FinishedRun, metric: str, texts: str) -> str:
    correct = run.predictions.is_correct()
    if metric != "accuracy" or correct is None:
        return f"There is no run to compare {run.name} with. Pass another run on these {texts}."
    accuracy = float(correct.mean())
    smallest = smallest_accuracy_difference(len(correct), 2 * accuracy * (1 - accuracy), level=LEVEL, power=POWER)
    if smallest is None:
        return f"A test set of {texts} is too small to tell another model from {run.name}."
    return (
        f"On {texts}, {DETECTABLE} in accuracy from {run.name} is {smallest:.4f}, for a model that is about as "
        "accurate and makes independent mistakes."
    )


def _run_rows(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> list[list[str]]:
    main, *others = metrics
    rows = [["run", main, "95 % interval", *others, "training", "memory", "trained", "texts per second"]]
    for run in runs:
        score, costs = run.scores[main], run.costs
        cells = [run.name, _number(score["value"]), f"{_number(score['low'])} to {_number(score['high'])}"]
        cells += [_number(run.scores[name]["value"]) for name in others]
        cells.append(_number(costs.get("train_seconds"), "{:,.1f} s"))
        cells.append(_number(costs.get("peak_memory_bytes"), "{:,.0f} MB", unit=1_000_000))
        cells.append(_number(costs.get("trainable_parameters"), "{:,}"))
        rows.append([*cells, _number(costs.get("test_texts_per_second"), "{:,.0f}")])
    return rows


def _pair_rows(comparisons: Sequence[Comparison], metric: str) -> list[list[str]]:
    has_mcnemar = any(each.p_mcnemar is not None for each in comparisons)
    is_corrected = len(comparisons) > 1
    header = ["pair", f"{metric}, difference", "95 % interval", *["p of accuracy (McNemar)"] * has_mcnemar]
    rows = [[*header, "p (randomization)", *["p (Holm)"] * is_corrected]]
    for each in comparisons:
        value = each.difference
        cells = [f"{each.first} - {each.second}", f"{value.value:+.4f}", f"{value.low:+.4f} to {value.high:+.4f}"]
        cells += [_p(each.p_mcnemar)] * has_mcnemar
        rows.append([*cells, _p(each.p_randomization), *[_p(each.p_corrected)] * is_corrected])
    return rows


def _number(value: float | None, form: str = "{:.4f}", *, unit: int = 1) -> str:
    return "-" if value is None else form.format(value if unit == 1 else value / unit)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if value >= 0.0001 else "< 0.0001"
