import random

import numpy as np
import pytest

from nlptl.data import near_duplicates
from nlptl.data.checks import find_problems
from nlptl.data.near_duplicates import MIN_SIMILARITY, find_near_duplicates, shingles, similarity
from nlptl.data.sources import Examples

VOCABULARY = [f"w{i}" for i in range(5000)]


def texts(count, seed=0, words=range(10, 31)):
    """Return texts of random words, some of which are far more frequent than others, as in a language."""
    draw = random.Random(seed)
    weights = [1 / (i + 3) for i in range(len(VOCABULARY))]
    return [" ".join(draw.choices(VOCABULARY, weights, k=draw.choice(words))) for _ in range(count)]


def change_a_word(text, draw):
    words = text.split()
    words[draw.randrange(len(words))] = "changed"
    return " ".join(words)


def split(name, texts):
    return Examples(list(texts), ["x", "y"] * (len(texts) // 2) + ["x"] * (len(texts) % 2), range(1, len(texts) + 1))


def found(**parts):
    splits = {name: split(name, part) for name, part in parts.items()}
    looked_at = {name: np.ones(len(part), dtype=bool) for name, part in parts.items()}
    return find_near_duplicates(splits, looked_at)


def test_one_changed_word_of_10_to_30_is_found():
    draw, base = random.Random(1), texts(4000)
    planted = [change_a_word(text, draw) for text in base[:1000]]
    (within,) = found(train=base + planted)
    assert 950 <= within.count <= 1000
    assert all(row == like + 4000 for row, like in zip(within.rows, within.like, strict=True))
    (across,) = found(train=base, validation=texts(500, seed=2), test=texts(500, seed=3) + planted)
    assert 950 <= across.count <= 1000
    assert all(row == like + 500 for row, like in zip(across.rows, across.like, strict=True))
    assert across.kind == "near_leak"
    assert "near-duplicate texts between test and train" in across.message
    assert f"rows ({across.rows[0]} ~ {across.like[0]}, " in across.message


def test_every_pair_that_is_reported_is_similar():
    base = texts(300)
    draw = random.Random(1)
    pool = [*base, *(change_a_word(change_a_word(change_a_word(text, draw), draw), draw) for text in base)]
    (finding,) = found(train=pool)
    similar = {j for j in range(len(pool)) for i in range(j) if similarity(pool[i], pool[j]) >= MIN_SIMILARITY}
    assert 0.95 * len(similar) <= finding.count <= len(similar)
    assert {row - 1 for row in finding.rows} <= similar


def test_other_texts_are_not_found():
    assert found(train=texts(3000), test=texts(500, seed=1)) == []


def test_a_heap_of_texts_from_one_template():
    heap = [f"Dear customer, your order with the number {i} was sent today, thank you and goodbye" for i in range(3000)]
    (within,) = found(train=heap)
    assert within.count == 2999
    leak = next(each for each in found(train=heap, test=heap[:10]) if each.kind == "near_leak")
    assert leak.count == 10


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c d e f g h i j", "a b c d e f g h i x", 9 / 11),
        ("A film, to remember!", "a film to remember", 1),
        ("the the the", "the", 1 / 3),
        ("\u6771\u4eac\u306f\u6674\u308c", "\u6771\u4eac\u306f\u96e8\u3060", 1 / 5),
        ("!!! ???", "!!! ???", 1),
        ("", "a", 0),
    ],
)
def test_similarity(first, second, expected):
    assert similarity(first, second) == pytest.approx(expected)


def test_languages_without_blanks():
    assert shingles("\u6771\u4eac\u306f\u6674\u308c")[0] == "\u6771\u4eac\u306f"
    assert shingles("na\u00efve \u6771 text here") == ["na\u00efve", "\u6771", "text", "here"]


def test_vowel_signs_are_parts_of_words():
    assert shingles("हिन्दी किताब") == ["हिन्दी", "किताब"]
    assert shingles("మంచి సినిమా 7") == ["మంచి", "సినిమా", "7"]
    assert shingles("cafe\u0301 noir") == ["cafe\u0301", "noir"]


def test_exact_copies_and_empty_texts_are_other_findings():
    base = texts(20)
    findings = find_problems({"train": split("train", [*base, base[0].upper(), "", " "]), "test": split("test", base)})
    assert {finding.kind for finding in findings} == {"leak", "duplicate", "empty_text"}


def test_too_many_texts_are_not_looked_at(monkeypatch, caplog):
    monkeypatch.setattr(near_duplicates, "MAX_TEXTS", 10)
    assert found(train=["a b c"] * 11) == []
    assert caplog.messages == ["not looking for near duplicates among 11 texts: the limit is 10"]


def test_one_text_and_none():
    assert found(train=["one text"]) == []
    assert found(train=[]) == []
    assert found(train=["one text"], validation=[], test=[]) == []
