"""Analyse the errors of a model on test, and the slices on which it is worse: analysis.json of a run."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nlptl.config import JudgingConfig, to_json
from nlptl.data.languages import can_tell_languages, languages_of
from nlptl.data.numbers import numbers as numbers_of
from nlptl.data.sources import Examples
from nlptl.data.tokens import TEXTS_PER_CALL, call_tokenizer, num_chunks, overlap_of_chunks
from nlptl.evaluation.cuts import cut_by_label, cut_by_number, cut_by_value, cut_by_word
from nlptl.evaluation.slices import RowScores, Slice, distinct, score_slices
from nlptl.judging.attributions import explain
from nlptl.judging.outcomes import Outcomes, outcomes_of
from nlptl.judging.probes import probe, probe_table
from nlptl.model.classifier import Classifier
from nlptl.training.devices import on_main
from nlptl.training.peers import peer_errors
from nlptl.training.run import Run
from nlptl.training.trainer import Evaluation
from nlptl.wording import align_table

MOST_ERRORS = 20
MOST_ROWS = 30
MOST_OF_A_COLUMN = 10
"""Slices shown of one column, so that a column with many values does not hide the others."""
MOST_TEXTS = 50_000
"""Texts on which slices are tested; a larger split is sampled."""

MOST_LOGGED = 10
MOST_LETTERS = 1000
"""Characters of a text quoted in analysis.json."""

CHOSEN = ("calibration", "decisions", "thresholds")
"""Keys of nlptl.json that are chosen after training; `nlptl calibrate` changes them."""

logger = logging.getLogger(__name__)


def analyse(model: Classifier, evaluation: Evaluation, config: JudgingConfig, *, seed: int = 0) -> dict[str, Any]:
    """Return the analysis of a split as strict JSON: calibration, confusions, errors, slices, probes, attributions."""
    examples, task = evaluation.examples, model.task
    outputs = task.outputs(evaluation.logits)
    outcomes = outcomes_of(task, examples, outputs, texts_shown=config.texts_shown == "whole")
    found = {
        "split": examples.split,
        "task": task.kind,
        "n": len(examples),
        "texts_shown": config.texts_shown,
        "chosen": {key: value for key, value in task.card().items() if key in CHOSEN},
        "remarks": task.decision_remarks(evaluation.targets, evaluation.logits),
        "calibration": task.describe_calibration(evaluation.targets, evaluation.logits),
        "confusion": outcomes.confusion,
        "confused": outcomes.confused,
        "errors": _errors(examples, outcomes, config),
        "slices": _slices(model, examples, outcomes, config, seed=seed),
        "probes": probe(model, examples, seed=seed) if config.probes else None,
        "attributions": explain(model, examples, outcomes, config.explain) or None,
    }
    return to_json(found)


@peer_errors()
def write_analysis(
    run: Run, model: Classifier, evaluation: Evaluation, config: JudgingConfig, *, seed: int = 0
) -> None:
    """Write `analysis.json` into the folder of a run and log the flagged slices. Every process must call it.

    Raises:
        ResourceError: If the folder cannot be written.
    """
    analysis: dict[str, Any] = {}  # stays empty in all but the main process
    on_main(lambda: analysis.update(analyse(model, evaluation, config, seed=seed)))
    run.write_json("analysis.json", analysis)
    if not analysis:
        return
    slices = analysis["slices"]
    if flagged := [row for row in slices["rows"] if row["flagged"]]:
        logger.info("\n%s", slice_table(flagged[:MOST_LOGGED], metric=slices["metric"]))
    if analysis["probes"]:
        logger.info("\n%s", probe_table(analysis["probes"], metric=slices["metric"]))


def slice_table(rows: Sequence[dict[str, Any]], *, metric: str) -> str:
    """Return a table of slices on which the model is worse than on the rest."""
    cells = [("worse slices of test", metric, "95 % interval", "n", "difference", "p")]
    for row in rows:
        score = (f"{row['score']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}", f"{row['n']:,}")
        cells.append((f"{row['column']}: {row['value']}", *score, f"{row['difference']:+.4f}", f"{row['p']:.3f}"))
    return align_table(cells)


def readable_text(examples: Examples, index: int) -> str:
    """Return a text, or the texts of a pair separated by ||."""
    text = examples.texts[index]
    return f"{text} || {examples.pairs[index]}" if len(examples.pairs) else text


def _errors(examples: Examples, outcomes: Outcomes, config: JudgingConfig) -> dict[str, Any]:
    wrong = np.flatnonzero(outcomes.is_wrong)
    sure = wrong[np.isfinite(outcomes.confidences[wrong])]

    def shown(text: str) -> str | None:
        if config.texts_shown == "none":
            return None
        return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}\u2026"

    def described(order: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "row": int(examples.rows[i]),
                "text": shown(readable_text(examples, i)),
                "label": outcomes.labels[i],
                "predicted": outcomes.predicted[i],
                "probability": outcomes.confidences[i],
                "loss": outcomes.losses[i],
            }
            for i in order[:MOST_ERRORS].tolist()
        ]

    return {
        "highest_loss": described(wrong[np.argsort(-outcomes.losses[wrong], kind="stable")]),
        "most_confident": described(sure[np.argsort(-outcomes.confidences[sure], kind="stable")]),
    }


def _slices(
    model: Classifier, examples: Examples, outcomes: Outcomes, config: JudgingConfig, *, seed: int
) -> dict[str, Any]:
    scores, kept = outcomes.scores, np.arange(len(examples))
    if len(examples) > MOST_TEXTS:
        kept = np.sort(np.random.default_rng(seed % 2**64).choice(len(examples), MOST_TEXTS, replace=False))
        logger.info("testing slices on %s random texts of %s", f"{MOST_TEXTS:,}", examples.split)
        scores = RowScores(scores.metric, scores.parts[kept], scores.wholes[kept], scores.lower_is_better)
    slices = distinct(_cut(model, examples.select(kept), outcomes, kept, config))
    rows = score_slices(slices, scores, seed=seed)
    # The scores show harder classes already: slices by label come after other flagged ones.
    rows.sort(key=lambda row: (not row.flagged, row.flagged and row.column == "label"))
    counts: Counter[str] = Counter()
    shown = []
    for row in rows:
        counts[row.column] += 1
        if counts[row.column] <= MOST_OF_A_COLUMN:
            shown.append(row)
    return {"metric": scores.metric, "overall": scores.overall, "tested": len(slices), "rows": shown[:MOST_ROWS]}


def _cut(
    model: Classifier, examples: Examples, outcomes: Outcomes, kept: np.ndarray, config: JudgingConfig
) -> list[Slice]:
    """Return the slices of examples; `kept` are their indices in `outcomes`."""
    texts = [readable_text(examples, i) for i in range(len(examples))]
    slices = [part for name, values in examples.columns.items() for part in cut_by_value(name, values)]
    slices += cut_by_number("length", np.array([float(len(text.split())) for text in texts]), unit=" words")
    slices += cut_by_label("truncated", [("yes",) if cut else () for cut in is_cut(model, examples)])
    if can_tell_languages():
        slices += _by_language(examples)
    if outcomes.label_sets:
        slices += cut_by_label("label", [outcomes.label_sets[i] for i in kept])
    if model.task.kind == "regression":
        first = np.array([next(iter(numbers_of(target).values())) for target in examples.labels])
        slices += cut_by_number("label", first)
    return slices if config.texts_shown == "none" else slices + cut_by_word(texts)


def _by_language(examples: Examples) -> list[Slice]:
    """Return slices for each language and for all but the main language; none if there is only one."""
    languages = languages_of(examples.texts)
    counts = Counter(language for language in languages if language)
    if len(counts) < 2:
        return []
    main = counts.most_common(1)[0][0]
    sets = [() if not each else (each,) if each == main else (each, f"not {main}") for each in languages]
    slices = cut_by_label("language", sets)
    return slices if len(slices) > 1 else []


def is_cut(model: Classifier, examples: Examples) -> np.ndarray:
    """Return whether each text has more tokens than the model reads, bool [examples]."""
    tokenizer, special = model.tokenizer, model.tokenizer.num_special_tokens_to_add(pair=model.reads_pairs)
    room = model.max_length - special
    room += (num_chunks(model.reading) - 1) * (room - overlap_of_chunks(tokenizer, model.reading))
    lengths: list[int] = []
    for start in range(0, len(examples), TEXTS_PER_CALL):
        part = slice(start, start + TEXTS_PER_CALL)
        given = [list(examples.texts[part]), *([list(examples.pairs[part])] if len(examples.pairs) else [])]
        unused = ("add_special_tokens", "return_attention_mask", "return_token_type_ids", "verbose")
        without: dict[str, Any] = dict.fromkeys(unused, False)
        lengths += map(len, call_tokenizer(tokenizer, *given, **without)["input_ids"])
    return np.array(lengths) > room
