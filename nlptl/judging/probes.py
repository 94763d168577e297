"""Effect of small changes of texts on predictions: typos, case, negation, emoji, punctuation, spaces.

After Ribeiro et al. (2020, Beyond Accuracy: Behavioral Testing of NLP Models with CheckList, arXiv:2005.04118): most
changes keep the meaning, and predictions should not change; an (English) negation reverses it, and they should.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nlptl.config import to_json
from nlptl.data.sources import Examples
from nlptl.evaluation.comparison import paired_bootstrap
from nlptl.evaluation.metrics import ratio
from nlptl.evaluation.slices import RowScores, interval_of, ratio_of
from nlptl.evaluation.uncertainty import WeightedScores
from nlptl.judging.outcomes import Outcomes, outcomes_of
from nlptl.model.classifier import Classifier
from nlptl.wording import align_table

MOST_TEXTS = 500
TYPO_SHARE = 0.1
"""Fraction of the words of four letters or more that get a typo, at least one in each text."""

_WORD = re.compile(r"[^\W\d_]{4,}")
_NEGATIONS = [
    (re.compile(pattern, re.IGNORECASE), without)
    for pattern, without in (
        (r"\bcan['\u2019]t\b|\bcannot\b|\bcan not\b", "can"),
        (r"\bwon['\u2019]t\b", "will"),
        (r"n['\u2019]t\b", ""),
        (r"\s+not\b", ""),
        (r"\bnever\s+", ""),
    )
]
_AUXILIARY = re.compile(
    r"\b(?:is|are|was|were|am|be|do|does|did|has|have|had|can|could|will|would|should|may|might|must)\b", re.IGNORECASE
)

Change = Callable[[str, np.random.Generator], str]


@dataclass(frozen=True)
class Probe:
    """A kind of change of texts."""

    name: str
    change: Change
    turns_meaning: bool = False
    keeps_words: bool = False
    """Whether the number of words stays the same, so that tags still fit."""


def put_typos(text: str, rng: np.random.Generator) -> str:
    """Swap two neighbouring letters inside some words, or drop one."""
    words = list(_WORD.finditer(text))
    count = max(1, round(TYPO_SHARE * len(words)))
    chosen = np.sort(rng.choice(len(words), count, replace=False)) if words else ()
    pieces, end = [], 0
    for word in (words[i] for i in chosen):
        place = word.start() + int(rng.integers(1, len(word[0]) - 2))  # first and last letter stay
        typo = text[place + 1] + text[place] if rng.random() < 0.5 else text[place + 1]
        pieces += [text[end:place], typo]
        end = place + 2
    return "".join([*pieces, text[end:]])


def turn_meaning(text: str, rng: np.random.Generator) -> str:
    """Remove a negation, or insert "not" after the first auxiliary verb; other texts stay as they are."""
    for negation, without in _NEGATIONS:
        if negation.search(text):
            return negation.sub(without, text, count=1)
    match = _AUXILIARY.search(text)
    return text if match is None else f"{text[: match.end()]} not{text[match.end() :]}"


PROBES = (
    Probe("typos", put_typos, keeps_words=True),
    Probe("lower case", lambda text, _: text.lower(), keeps_words=True),
    Probe("upper case", lambda text, _: text.upper(), keeps_words=True),
    Probe("emoji added", lambda text, _: f"{text} \U0001f642"),
    Probe("!!! added", lambda text, _: f"{text}!!!"),
    Probe("full stop dropped", lambda text, _: text.rstrip(" .")),
    Probe("blanks doubled", lambda text, _: re.sub(r"\s+", "  ", f" {text} ")),
    Probe("negation", turn_meaning, turns_meaning=True),
)


def probe(model: Classifier, examples: Examples, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the effect of each change on the predictions of at most `MOST_TEXTS` texts.

    Each has the "name" of the change, the number of texts "changed" (at least one), the "score" of all texts with the
    95 % interval "low" to "high", the "difference" from the score of the original texts with the interval
    "difference_low" to "difference_high" of the paired bootstrap, and "flipped", the fraction of the changed texts with
    another prediction (None for regression). A change of the meaning has only "flipped", because labels no longer hold.
    `seed` is that of the sample of texts, the typos and the bootstrap.
    """
    rng = np.random.default_rng([seed % 2**64, 1])
    kept = np.arange(len(examples))
    if len(examples) > MOST_TEXTS:
        kept = np.sort(rng.choice(len(examples), MOST_TEXTS, replace=False))
    examples = examples.select(kept)
    texts, pairs = list(examples.texts), list(examples.pairs)
    before = _judge(model, examples)
    found = []
    for each in PROBES:
        if model.task.is_per_token and not each.keeps_words:
            continue
        if model.task.kind == "regression" and each.turns_meaning:  # neither a score nor flips are defined
            continue
        texts_after, pairs_after = ([each.change(text, rng) for text in given] for given in (texts, pairs))
        changed = np.array([a != b for a, b in zip(texts, texts_after, strict=True)])
        if pairs:
            changed |= np.array([a != b for a, b in zip(pairs, pairs_after, strict=True)])
        if changed.any():
            after = _judge(model, replace(examples, texts=texts_after, pairs=pairs_after))
            found.append(_compare(each, before, after, changed, seed=seed))
    return found


def probe_table(rows: list[dict[str, Any]], *, metric: str) -> str:
    """Return a table of the results of `probe`."""
    cells = [("change", "texts", metric, "difference", "95 % interval", "flipped")]
    for row in rows:
        score, difference, interval = "", "", ""
        if row["score"] is not None:
            score, difference = f"{row['score']:.4f}", f"{row['difference']:+.4f}"
            interval = f"{row['difference_low']:+.4f} to {row['difference_high']:+.4f}"
        flipped = "" if row["flipped"] is None else f"{row['flipped']:.1%}"
        cells.append((row["name"], f"{row['changed']:,}", score, difference, interval, flipped))
    return align_table(cells)


def _judge(model: Classifier, examples: Examples) -> Outcomes:
    outputs = model.predict_outputs(examples.texts, examples.pairs)
    return outcomes_of(model.task, examples, outputs, texts_shown=False)


def _compare(each: Probe, before: Outcomes, after: Outcomes, changed: np.ndarray, *, seed: int) -> dict[str, Any]:
    is_other = np.array([a != b for a, b in zip(before.predicted, after.predicted, strict=True)])
    scores = after.scores
    is_number = scores.metric == "mae" and after.confusion is None
    row: dict[str, Any] = {"name": each.name, "changed": int(changed.sum())}
    row |= dict.fromkeys(("score", "low", "high", "difference", "difference_low", "difference_high"))
    row["flipped"] = None if is_number else ratio_of((is_other & changed).sum(), changed.sum())
    if not each.turns_meaning:
        low, high = interval_of(scores.parts, scores.wholes, is_share=scores.is_share)
        paired = paired_bootstrap(_weighted(scores), _weighted(before.scores), len(changed), seed=seed)[scores.metric]
        row |= {"score": scores.overall, "low": low, "high": high}
        row |= {"difference": paired.value, "difference_low": paired.low, "difference_high": paired.high}
    return to_json(row)


def _weighted(scores: RowScores) -> WeightedScores:
    return lambda weights: {scores.metric: ratio(weights @ scores.parts, weights @ scores.wholes)}
