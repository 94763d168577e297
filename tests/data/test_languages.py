"""Texts in another script or language than most."""

import re

import pytest

from nlptl import Examples
from nlptl.data import languages
from nlptl.data.languages import find_other_languages

ENGLISH = [f"this film is a long and quite remarkable story about number {i} of its kind" for i in range(40)]
GERMAN = "dieser Film ist eine lange und recht bemerkenswerte Geschichte über seine Zeit"
SPANISH = "es divertida , visualmente espectacular y muy entretenida , y simplemente sorprende"
RUSSIAN = "этот фильм очень длинная и довольно замечательная история о своём времени"


def found(texts, kind):
    findings = find_other_languages(
        "test", Examples(texts, ["x"] * len(texts), list(range(1, len(texts) + 1)), "a.csv")
    )
    return next((finding for finding in findings if finding is not None and finding.kind == kind), None)


def test_texts_in_another_language():
    texts = [*ENGLISH, GERMAN, "qué bueno", "zzz " * 20, SPANISH, RUSSIAN, f"{GERMAN}\n{GERMAN}"]
    finding = found(texts, "other_language")
    assert finding.rows == (41, 44, 46)  # another script is a finding of its own
    assert "texts in test that do not look like 'en', the main language (2 'de', 1 'es')" in finding.message


@pytest.mark.parametrize("texts", [ENGLISH, [GERMAN] * 5, [*ENGLISH, "naïve café déjà vu"], ["ok", "lol", ""], []])
def test_nothing_is_found_in_one_language(texts):
    assert found(texts, "other_language") is None


def test_without_the_package_nothing_is_looked_at(monkeypatch):
    monkeypatch.setattr(languages, "PACKAGE", "a_package_that_is_not_there")
    assert found([*ENGLISH, GERMAN], "other_language") is None


@pytest.mark.parametrize(
    ("texts", "rows", "message"),
    [
        (["a film", "Хороший фильм", "ein Film"], (2,), "whose script is not Latin, the main script .*1 in Cyrillic"),
        (["これは映画です", "a film", "很好的电影"], (2,), "is not Chinese or Japanese, the main .*1 in Latin"),
        (["a film", "another", "영화", "ταινία"], (3, 4), "1 in Hangul, 1 in Greek"),
        (["మంచి సినిమా", "చెడ్డ సినిమా", "a film"], (3,), "whose script is not that of most texts .1 in Latin"),
        (["a film", "another", "ಚಿತ್ರ"], (3,), "1 in another script"),
    ],
)
def test_texts_in_another_script(texts, rows, message):
    finding = found(texts, "other_script")
    assert finding.rows == rows
    assert re.search(message, finding.message)


@pytest.mark.parametrize(
    "texts",
    [
        ["a film", "für Élise – “quoted” … ☕ 🎬", "123", "", "!!! ☕"],
        ["the word фильм is Russian", "a film"],
        ["Хороший фильм с IMAX", "Фильм"],
        [],
    ],
)
def test_signs_loan_words_and_accents_are_no_other_script(texts):
    assert found(texts, "other_script") is None
