"""Spans and their scores against seqeval, and the intervals against resampling sentence by sentence."""

import itertools
import math
import re

import numpy as np
import pytest
from seqeval.metrics import accuracy_score
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2, Entities

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation import uncertainty
from nlptl.evaluation.metrics import Score
from nlptl.evaluation.spans import find_spans, scorer

TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]


def sentences(rows, seed, *, right=0.7, tags=TAGS):
    """Return true and predicted tags drawn at random, malformed ones among them."""
    rng = np.random.default_rng([seed, rows])
    true = [rng.choice(tags, size=rng.integers(1, 9)).tolist() for _ in range(rows)]
    return true, [[tag if rng.random() < right else str(rng.choice(tags)) for tag in row] for row in true]


def by_seqeval(true, predicted):
    settings = {"scheme": IOB2, "zero_division": 0}
    precision, recall, f1, _ = precision_recall_fscore_support(true, predicted, average="micro", **settings)
    macro = precision_recall_fscore_support(true, predicted, average="macro", **settings)[2]
    names = ("span_f1", "span_precision", "span_recall", "macro_f1", "token_accuracy")
    return dict(zip(names, (f1, precision, recall, macro, accuracy_score(true, predicted)), strict=True))


def test_spans_of_every_short_sentence_are_those_of_seqeval():
    every = [list(tags) for words in range(6) for tags in itertools.product(TAGS, repeat=words)]
    expected = [[(e.tag, e.start, e.end) for e in found] for found in Entities(every, IOB2).entities]
    assert len(every) == 3906
    assert [find_spans(tags) for tags in every] == expected


@pytest.mark.parametrize("tags", [["B", "I", "I-A"], ["B-a-b", "I-a-b"], ["B--A-", "I-A"], ["B-", "I"]])
def test_spans_of_unusual_types_are_those_of_seqeval(tags):
    assert find_spans(tags) == [(e.tag, e.start, e.end) for e in Entities([tags], IOB2).entities[0]]


@pytest.mark.parametrize("tags", [TAGS, ["O", "B-A", "I-A", "B-B", "I-B", "B-C", "I-C"], ["B-A"]])
@pytest.mark.parametrize(("rows", "right"), [(1, 0.0), (1, 1.0), (3, 0.5), (60, 0.2), (200, 0.9)])
def test_scores_equal_seqeval(rows, right, tags):
    for seed in range(5):
        true, predicted = sentences(rows, seed, right=right, tags=tags)
        if not any(find_spans(row) for row in true + predicted):
            continue  # seqeval returns NaN and warns
        expected = pytest.approx(by_seqeval(true, predicted), abs=1e-12)
        scores = scorer(true, predicted).score(resamples=20)
        assert {metric: score.value for metric, score in scores.items()} == expected
        assert scorer(true, predicted).points() == expected
        assert all(score.n == rows and score.low <= score.high for score in scores.values())


def test_per_class_scores_equal_seqeval_and_are_nan_without_true_spans():
    true, predicted = sentences(80, 0)
    predicted[0] = ["B-new"] * len(predicted[0])
    scores = scorer(true, predicted).score(resamples=200)
    expected = precision_recall_fscore_support(true, predicted, average=None, scheme=IOB2, zero_division=0)

    assert list(scores.per_class) == ["A", "B", "new"]
    for i, row in enumerate(scores.per_class.values()):
        assert [score.n for score in row.values()] == [expected[3][i]] * 3
        if expected[3][i]:
            assert [score.value for score in row.values()] == pytest.approx([array[i] for array in expected[:3]])
            assert all(0 < score.low < score.value < score.high < 1 for score in row.values())
        else:
            assert all(math.isnan(number) for s in row.values() for number in (s.value, s.low, s.high))


def test_intervals_are_those_of_resampled_sentences():
    true, predicted = sentences(30, 1)
    drawn = [
        by_seqeval([true[i] for i in rows], [predicted[i] for i in rows])
        for rows in next(uncertainty.resample_rows(30, resamples=100, seed=4))
    ]
    scores = scorer(true, predicted).score(resamples=100, confidence=0.8, seed=4)
    for metric, score in scores.items():
        ends = np.quantile([row[metric] for row in drawn], [0.1, 0.9])
        assert [score.low, score.high] == pytest.approx(ends.tolist(), abs=1e-12), metric


def test_sentences_without_spans_or_words_score_zero():
    scores = scorer([["O", "O"], []], [["O", "I-A"], []]).score(resamples=10)
    assert scores["span_f1"] == Score(0.0, 0.0, 0.0, 2)
    assert scores["token_accuracy"].value == 0.5
    assert scores.per_class == {}
    assert set(scorer([[]], [[]]).points().values()) == {0.0}


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([], [], "Expected one sentence or more to score, found none. Pass a split that has rows."),
        ([["O"]], [["O"], ["O"]], "Expected predicted tags for each of the 1 sentences, found 2."),
        ([["O"], ["O", "O"]], [["O"], ["O"]], "Expected one predicted tag for each of the 2 words in row 1, found 1."),
        (
            [["O"]],
            [["E-A"]],
            'Expected IOB2 tags: O, or B- and I- with the type of a span, such as B-person, found "E-A"',
        ),
        ([["0"]], [["O"]], 'found "0". Convert the tags to IOB2 first.'),
    ],
)
def test_bad_tags_are_refused(true, predicted, message):
    with pytest.raises(DataError, match=re.escape(message)):
        scorer(true, predicted)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="Expected 1 or more resamples, found 0"):
        scorer([["O"]], [["O"]]).score(resamples=0)
    with pytest.raises(ConfigError, match="Expected a confidence between 0 and 1, found 95"):
        scorer([["O"]], [["O"]]).score(confidence=95)
