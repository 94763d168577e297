import random

import pytest

from nlptl.data.leakage import MIN_TEXTS, find_leaking_words
from nlptl.data.sources import Examples

WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]


def train(labels, add):
    """Return 400 texts of random words, to which `add(i, label)` adds some."""
    draw = random.Random(0)
    names = [labels[i % len(labels)] for i in range(400)]
    texts = [" ".join([*draw.choices(WORDS, k=12), add(i, label)]) for i, label in enumerate(names)]
    return Examples.from_lists(texts, names)


def found(labels, add):
    return {finding.kind: finding for finding in find_leaking_words(train(labels, add))}


def test_random_words_give_nothing_away():
    assert found(["sports", "politics"], lambda i, label: "") == {}


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (["Sports", "politics"], "sport"),
        (["sports", "politics"], "Politics"),
        (["sports", "politics"], "political"),
        (["credit_card", "loan"], "Credit Card"),
        (["very negative", "very positive"], "very  POSITIVE"),
    ],
)
def test_names_of_classes_in_their_texts(labels, word):
    label = min(labels, key=lambda label: label[:3].casefold() != word[:3].casefold())
    label = "very positive" if "POSITIVE" in word else label
    planted = [i for i in range(400) if labels[i % 2] == label][: MIN_TEXTS + 5]
    finding = found(labels, lambda i, _: word if i in planted else "")["label_word"]
    assert f"in {len(planted)} texts of {label!r} and 0 of others" in finding.message
    assert finding.rows == tuple(i + 1 for i in planted[:5])
    assert finding.count == len(planted)


def test_a_name_that_is_a_form_of_another_one():
    finding = found(["sport", "sports", "tech"], lambda i, label: label if label == "sport" else "")["label_word"]
    assert "in 134 texts of 'sport' and 0 of others" in finding.message


def test_a_name_in_texts_of_all_classes_is_a_word_like_others():
    assert found(["sports", "politics"], lambda i, label: "sports" if i % 4 < 3 else "") == {}


def test_few_texts_are_not_reported():
    assert found(["sports", "politics"], lambda i, label: "sport" if i < 2 * MIN_TEXTS - 4 and not i % 2 else "") == {}


def test_a_word_that_gives_the_class_away():
    finding = found(["a", "b"], lambda i, label: "sent-from-my-phone" if i % 16 == 1 else "")["leaking_word"]
    assert "'my' in 25 texts, all 'b'; 'phone' in 25 texts, all 'b'" in finding.message
    assert (finding.count, finding.rows[:2]) == (25, (2, 18))


def test_one_exception_is_enough_to_be_no_leak():
    def add(i, label):
        return "signature" if i % 16 == 1 or i == 0 else ""

    assert found(["a", "b"], add) == {}


def test_in_a_class_that_has_nearly_all_texts_it_is_luck():
    assert found(["a"] * 49 + ["b"], lambda i, label: "word" if i % 16 == 1 else "") == {}
