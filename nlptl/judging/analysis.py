"""What a model gets wrong on test, and where it is worse than elsewhere: analysis.json of a run."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nlptl.config import JudgingConfig
from nlptl.data.languages import can_tell_languages, languages_of
from nlptl.data.numbers import numbers as numbers_of
from nlptl.data.sources import Examples
from nlptl.data.tokens import TEXTS_PER_CALL, call_tokenizer, overlap_of_chunks
from nlptl.evaluation.cuts import cut_by_label, cut_by_number, cut_by_value, cut_by_word
from nlptl.evaluation.slices import RowScores, Slice, SliceScore, distinct, score_slices
from nlptl.judging.attributions import explain
from nlptl.judging.outcomes import Outcomes, outcomes_of, plain_number
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
"""Rows of slices that a column may have, so that one of many values does not hide the others."""
MOST_TEXTS = 50_000
"""Texts by which slices are tested; of more, as many are drawn."""

MOST_LOGGED = 10
MOST_LETTERS = 1000
"""Characters of a text that analysis.json quotes."""

CHOSEN = ("calibration", "decisions", "thresholds")
"""What nlptl.json holds of what was chosen after training, and `nlptl calibrate` changes."""

logger = logging.getLogger(__name__)


def analyse(model: Classifier, evaluation: Evaluation, config: JudgingConfig, *, seed: int = 0) -> dict[str, Any]:
    """Return what is wrong on a split, as strict JSON: confusions, errors, slices.

    Args:
        model: The trained model.
        evaluation: What it has made of the split.
        config: What is looked at, and what may be shown of texts.
        seed: Seeds what is random in the tests.
    """
    examples, task = evaluation.examples, model.task
    outputs = task.outputs(evaluation.logits)
    is_shown = config.texts_shown == "whole"
    outcomes = outcomes_of(task, examples.labels, evaluation.targets, outputs, examples.texts, texts_shown=is_shown)
    return {
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


@peer_errors()
def write_analysis(
    run: Run, model: Classifier, evaluation: Evaluation, config: JudgingConfig, *, seed: int = 0
) -> None:
    """Write `analysis.json` into the folder of a run, and log what is flagged. Every process has to call it.

    Raises:
        ResourceError: If the folder cannot be written.
    """
    analysis: dict[str, Any] = {}  # of the main process alone
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
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        name = f"{row['column']}: {row['value']}"
        numbers = (f"{row['n']:,}", f"{row['difference']:+.4f}", f"{row['p']:.3f}")
        cells.append((name, f"{row['score']:.4f}", interval, *numbers))
    return align_table(cells)


def readable_text(examples: Examples, index: int) -> str:
    """Return a text, or both texts of a pair with || between them."""
    text = examples.texts[index]
    return f"{text} || {examples.pairs[index]}" if len(examples.pairs) else text


def _beginning(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}\u2026"


def _errors(examples: Examples, outcomes: Outcomes, config: JudgingConfig) -> dict[str, Any]:
    wrong = np.flatnonzero(outcomes.is_wrong)
    sure = wrong[np.isfinite(outcomes.confidences[wrong])]

    def described(order: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "row": int(examples.rows[i]),
                "text": _beginning(readable_text(examples, i)) if config.texts_shown == "whole" else None,
                "label": outcomes.labels[i],
                "predicted": outcomes.predicted[i],
                "probability": plain_number(outcomes.confidences[i]),
                "loss": plain_number(outcomes.losses[i]),
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
    # That a class is harder than others is no news, and stands among the scores too: it comes after what is.
    rows.sort(key=lambda row: (not row.flagged, row.flagged and row.column == "label"))
    return {
        "metric": scores.metric,
        "overall": plain_number(scores.overall),
        "tested": len(slices),
        "rows": [
            {key: plain_number(value) if isinstance(value, float) else value for key, value in asdict(row).items()}
            for row in _some_of_each(rows)
        ],
    }


def _cut(
    model: Classifier, examples: Examples, outcomes: Outcomes, kept: np.ndarray, config: JudgingConfig
) -> list[Slice]:
    """Return the slices of examples, of which those at `kept` have these outcomes."""
    texts = [readable_text(examples, i) for i in range(len(examples))]
    slices = []
    for name, values in examples.columns.items():
        slices += cut_by_value(name, values)
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
    """Return the texts of each language, and those in any but that of most, where it is told; none if all are alike."""
    languages = languages_of(examples.texts)
    counts = Counter(language for language in languages if language)
    if len(counts) < 2:
        return []
    main = counts.most_common(1)[0][0]
    sets = [() if not each else (each,) if each == main else (each, f"not {main}") for each in languages]
    slices = cut_by_label("language", sets)
    return slices if len(slices) > 1 else []


def is_cut(model: Classifier, examples: Examples) -> np.ndarray:
    """Return whether each text has more tokens than the model reads: bool [examples]."""
    tokenizer, special = model.tokenizer, model.tokenizer.num_special_tokens_to_add(pair=model.reads_pairs)
    room = model.max_length - special
    if model.reads_chunks:
        overlap = overlap_of_chunks(tokenizer, model.max_length, model.chunk_overlap)
        room += ((model.max_chunks or 1) - 1) * (room - overlap)
    lengths: list[int] = []
    for start in range(0, len(examples), TEXTS_PER_CALL):
        part = slice(start, start + TEXTS_PER_CALL)
        given = [list(examples.texts[part]), *([list(examples.pairs[part])] if len(examples.pairs) else [])]
        found = call_tokenizer(
            tokenizer,
            *given,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        lengths += map(len, found["input_ids"])
    return np.array(lengths) > room


def _some_of_each(rows: Sequence[SliceScore]) -> list[SliceScore]:
    """Return the first rows, of no column too many."""
    counts: Counter[str] = Counter()
    kept = []
    for row in rows:
        counts[row.column] += 1
        if counts[row.column] <= MOST_OF_A_COLUMN:
            kept.append(row)
    return kept[:MOST_ROWS]
