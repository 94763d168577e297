"""Describe the errors of a model: which labels it confuses, and the loss of each example."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from nlptl.evaluation.spans import Span, find_spans

MOST_CLASSES = 50
"""Largest number of labels of a readable confusion matrix."""
MOST_PAIRS = 20
NONE = "(none)"
"""Stands for the missing side of a pair: a spurious prediction, or a missed label."""

Pairs = list[dict[str, object]]


def count_confusions(labels: np.ndarray, predictions: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return how often each label (rows) was predicted as each (columns): int64 [classes, classes]."""
    codes = labels * num_classes + predictions
    return np.bincount(codes, minlength=num_classes**2).reshape(num_classes, num_classes)


def confused_labels(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> Pairs:
    """Return the pairs of a label and a wrong prediction, the most frequent first, at most `MOST_PAIRS`.

    Each has "label", "predicted", "count" and "share", the fraction of the examples with the label.
    """
    wrong = labels != predictions
    counts = Counter(zip(labels[wrong].tolist(), predictions[wrong].tolist(), strict=True))
    support = np.bincount(labels, minlength=len(names))
    named = {(names[true], names[taken]): count for (true, taken), count in counts.items()}
    return _ranked(named, {(names[a], names[b]): int(support[a]) for a, b in counts})


def confused_sets(true: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Pairs:
    """Return the confused pairs of examples with several labels, as `confused_labels` does.

    A missed label pairs with each wrong prediction of the example, or with `NONE` if there is none. A wrong prediction
    without a missed label pairs with `NONE`; its share is the fraction of the examples without the label.

    `true` and `predicted` are bool [examples, labels].
    """
    counts: Counter[tuple[str, str]] = Counter()
    missed, given = true & ~predicted, predicted & ~true
    for i in np.flatnonzero((missed | given).any(axis=1)):
        lost = [names[k] for k in np.flatnonzero(missed[i]).tolist()] or [NONE]
        added = [names[k] for k in np.flatnonzero(given[i]).tolist()] or [NONE]
        counts.update((a, b) for a in lost for b in added)
    support = dict(zip(names, true.sum(axis=0).tolist(), strict=True))
    wholes = {pair: support[pair[0]] if pair[0] != NONE else len(true) - support[pair[1]] for pair in counts}
    return _ranked(counts, wholes)


def confused_spans(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Pairs:
    """Return the span types predicted with other borders, as another type, or not at all, as `confused_labels` does.

    A missed span pairs with the predicted span that shares most words with it, or with `NONE`. A predicted span that
    shares no words with a true one pairs with `NONE`; its share is the fraction of the predicted spans of its type.

    `true` and `predicted` are the IOB2 tags of each sentence.
    """
    counts: Counter[tuple[str, str]] = Counter()
    of_true: Counter[str] = Counter()
    of_predicted: Counter[str] = Counter()
    for tags, found in zip(true, predicted, strict=True):
        spans, guesses = find_spans(tags), find_spans(found)
        of_true.update(span[0] for span in spans)
        of_predicted.update(span[0] for span in guesses)
        counts.update((span[0], _taken_for(span, guesses)) for span in set(spans) - set(guesses))
        counts.update((NONE, span[0]) for span in guesses if not any(_shared(span, other) for other in spans))
    return _ranked(counts, {(a, b): of_true[a] if a != NONE else of_predicted[b] for a, b in counts})


def _taken_for(span: Span, guesses: Sequence[Span]) -> str:
    best = max(guesses, key=lambda guess: _shared(span, guess), default=None)
    if best is None or _shared(span, best) == 0:
        return NONE
    return best[0] if best[0] != span[0] else f"{best[0]}, other borders"


def _shared(one: Span, other: Span) -> int:
    return max(0, min(one[2], other[2]) - max(one[1], other[1]))


def _ranked(counts: dict[tuple[str, str], int], wholes: dict[tuple[str, str], int]) -> Pairs:
    order = sorted(counts, key=lambda pair: (-counts[pair], pair))[:MOST_PAIRS]
    return [{"label": a, "predicted": b, "count": counts[a, b], "share": counts[a, b] / wholes[a, b]} for a, b in order]
