import numpy as np
import pytest

from nlptl.data.sources import Examples
from nlptl.judging import probes
from nlptl.judging.probes import PROBES, probe, probe_table, put_typos, turn_meaning
from nlptl.model.classifier import Classifier
from nlptl.tasks.multi_label import MultiLabel
from nlptl.tasks.regression import Regression
from nlptl.tasks.tokens import TokenLabels
from tests.conftest import NEGATIVE, POSITIVE, toy_rows

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("it is good", "it is not good"),
        ("it is not good", "it is good"),
        ("I don't like it", "I do like it"),
        ("I can't see and cannot hear", "I can see and cannot hear"),
        ("it won\u2019t last", "it will last"),
        ("never dull", "dull"),
        ("They WERE great", "They WERE not great"),
        ("a fine film", "a fine film"),
        ("nothing", "nothing"),
    ],
)
def test_negations(text, turned):
    assert turn_meaning(text, RNG) == turned


def test_typos_are_swapped_or_dropped_letters_inside_of_words():
    text = "an extraordinary film with touching moments " * 5
    typed = put_typos(text, np.random.default_rng(0))
    changed = [(a, b) for a, b in zip(text.split(), typed.split(), strict=True) if a != b]
    assert len(changed) == 2  # a tenth of 25 words with four letters or more
    for before, after in changed:
        assert (before[0], before[-1]) == (after[0], after[-1])
        assert sorted(before) == sorted(after) or len(after) == len(before) - 1
    assert put_typos(text, np.random.default_rng(0)) == typed
    assert put_typos("a of 12345 !", RNG) == "a of 12345 !"
    assert all(len(put_typos("film", np.random.default_rng(i))) in (3, 4) for i in range(20))


def biased_model(folder):
    """Return a classifier that predicts by whether a text has "not" in it, whatever else is there."""
    model = Classifier.from_pretrained(folder, labels=["negative", "positive"])

    def outputs(texts, pairs=(), *, progress=None):
        return np.array([[1.0, 0.0] if " not " in f" {text} " else [0.1, 0.9] for text in texts])

    model.predict_outputs = outputs
    return model


def test_what_probes_tell_of_a_model_that_reads_a_single_word(tiny_bert):
    texts = ["it is not good"] * 30 + ["it is good"] * 50 + ["a film"] * 20
    labels = ["negative"] * 30 + ["positive"] * 70
    found = {row["name"]: row for row in probe(biased_model(tiny_bert), Examples(texts, labels, list(range(100))))}
    assert found.keys() == {each.name for each in PROBES} - {"lower case", "full stop dropped"}  # nothing is changed
    negation = found["negation"]
    assert (negation["changed"], negation["flipped"], negation["score"]) == (80, 1.0, None)
    upper = found["upper case"]
    assert (upper["changed"], upper["score"], upper["flipped"]) == (100, 0.7, 0.3)
    assert upper["difference"] == pytest.approx(-0.3)
    assert upper["difference_low"] < -0.3 < upper["difference_high"] < -0.15
    assert upper["low"] < 0.7 < upper["high"]
    same = found["emoji added"]
    assert (same["score"], same["difference"], same["difference_low"], same["flipped"]) == (1.0, 0.0, 0.0, 0.0)
    table = probe_table(list(found.values()), metric="accuracy")
    assert "upper case" in table
    assert "30.0%" in table


def test_at_most_so_many_texts_the_same_for_a_seed(tiny_bert, monkeypatch):
    monkeypatch.setattr(probes, "MOST_TEXTS", 30)
    texts, labels = zip(*toy_rows(60), strict=True)
    examples = Examples(list(texts), list(labels), list(range(60)))
    model = Classifier.from_pretrained(tiny_bert, labels=["negative", "positive"])
    first = probe(model, examples, seed=1)
    assert first == probe(model, examples, seed=1)
    assert max(row["changed"] for row in first) == 30


def test_other_tasks_and_pairs(tiny_bert):
    texts = [text for text, _ in toy_rows(40)]
    several = Examples(texts, ['["a"]', "[]"] * 20, list(range(40)), pairs=texts[::-1])
    found = probe(Classifier.from_pretrained(tiny_bert, task=MultiLabel(("a", "b")), pairs=True), several)
    assert {"typos", "negation"} <= {row["name"] for row in found}

    scored = Examples(texts, ["1.0", "2.5"] * 20, list(range(40)))
    found = probe(Classifier.from_pretrained(tiny_bert, task=Regression(("score",))), scored)
    assert "negation" not in {row["name"] for row in found}
    assert all(row["flipped"] is None for row in found)
    assert "typos" in probe_table(found, metric="mae")

    words = [" ".join(text.split()) for text in texts]
    tags = [" ".join(["B-x" if word in POSITIVE + NEGATIVE else "O" for word in text.split()]) for text in words]
    found = probe(
        Classifier.from_pretrained(tiny_bert, task=TokenLabels(("O", "B-x", "I-x"))),
        Examples(words, tags, list(range(40))),
    )
    assert {row["name"] for row in found} == {"typos", "upper case"}  # the others change the number of words
