"""Scores of named spans of words (strict IOB2 tags), with bootstrap intervals.

The tests compare every score with seqeval (mode="strict", scheme=IOB2, zero_division=0).
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from nlptl.errors import DataError
from nlptl.evaluation import metrics
from nlptl.evaluation.uncertainty import split_counts

Span = tuple[str, int, int]


def find_spans(tags: Sequence[str]) -> list[Span]:
    """Return the spans of a sentence as (type, first word, end word exclusive), in order.

    A span starts at a B- tag and continues with I- tags of the same type; other I- tags belong to no span. The type of
    a bare B or I is "_".

    Raises:
        DataError: If a tag is not O, B-type or I-type.

    Source:
        Tjong Kim Sang and Veenstra 1999, Representing Text Chunks, section 2 (IOB2).
    """
    spans: list[Span] = []
    current: tuple[str, int] | None = None
    for i, tag in enumerate([*tags, "O"]):
        prefix, name = _split_tag(tag)
        if current is not None and (prefix, name) == ("I", current[0]):
            continue
        if current is not None:
            spans.append((*current, i))
        current = (name, i) if prefix == "B" else None
    return spans


def scorer(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> metrics.Scorer:
    """Return the scorer of the tags of words; a predicted span is correct if its type, first word and last word are.

    Its rows are the sentences. Its scores are span_f1, span_precision and span_recall over all spans, macro_f1 over the
    types that occur in the true or the predicted spans, and token_accuracy, the fraction of words with the right tag.
    Its classes are the types, sorted.

    Args:
        true: The tags of each sentence, one for each word.
        predicted: The predicted tags, in the same shape.

    Raises:
        DataError: If there is no sentence, the numbers of sentences or words differ, or a tag is not IOB2.
    """
    _check_tags(true, predicted)
    types, counts, words = _count_sentences(true, predicted)

    def scores(weights: np.ndarray) -> dict[str, np.ndarray]:
        by_type, (correct, all_words) = split_counts(weights @ counts), (weights @ words).T
        micro = metrics.class_scores(*(count.sum(axis=-1) for count in by_type))
        num_occurring = np.count_nonzero(by_type[1] + by_type[2], axis=-1)
        return {
            "span_f1": micro["f1"],
            "span_precision": micro["precision"],
            "span_recall": micro["recall"],
            "macro_f1": metrics.ratio(metrics.class_scores(*by_type)["f1"].sum(axis=-1), num_occurring),
            "token_accuracy": metrics.ratio(correct, all_words),
        }

    return metrics.Scorer(scores, len(true), types, counts)


def _split_tag(tag: str) -> tuple[str, str]:
    """Return prefix and type, without hyphens around the type, as in seqeval."""
    if tag == "O":
        return tag, ""
    prefix, _, name = tag.partition("-")
    if prefix not in ("B", "I"):
        raise DataError(
            f'Expected IOB2 tags: O, or B- and I- with the type of a span, such as B-person, found "{tag}". '
            "Convert the tags to IOB2 first."
        )
    return prefix, name.strip("-") or "_"


def _count_sentences(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> tuple[list[str], sparse.csr_array, np.ndarray]:
    """Return the types, their counts in each sentence, and the numbers of right and of all words, [sentences, 2].

    The counts [sentences, 3 * types] are true positives, support and predictions.
    """
    spans = [(set(find_spans(t)), set(find_spans(p))) for t, p in zip(true, predicted, strict=True)]
    types = sorted({span[0] for pair in spans for span in pair[0] | pair[1]})
    column_of = {name: i for i, name in enumerate(types)}
    rows, columns = [], []
    for row, (of_true, of_predicted) in enumerate(spans):
        for part, found in enumerate((of_true & of_predicted, of_true, of_predicted)):
            rows += [row] * len(found)
            columns += [part * len(types) + column_of[span[0]] for span in found]
    ones = np.ones(len(rows))
    counts = sparse.csr_array((ones, (rows, columns)), shape=(len(spans), 3 * len(types)))  # adds up repeated cells
    words = np.array(
        [(sum(a == b for a, b in zip(t, p, strict=True)), len(t)) for t, p in zip(true, predicted, strict=True)],
        dtype=np.float64,
    )
    return types, counts, words


def _check_tags(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    metrics.check_rows(true, "sentence")
    if len(true) != len(predicted):
        raise DataError(
            f"Expected predicted tags for each of the {len(true)} sentences, found {len(predicted)}. "
            "Pass true and predicted tags of the same sentences."
        )
    for row, (t, p) in enumerate(zip(true, predicted, strict=True)):
        if len(t) != len(p):
            raise DataError(
                f"Expected one predicted tag for each of the {len(t)} words in row {row}, found {len(p)}. "
                "Tag words beyond the truncation as O."
            )
