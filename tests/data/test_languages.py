"""Texts in another language than most."""

import pytest

from nlptl import Examples
from nlptl.data import languages
from nlptl.data.languages import find_other_languages

ENGLISH = [f"this film is a long and quite remarkable story about number {i} of its kind" for i in range(40)]
GERMAN = "dieser Film ist eine lange und recht bemerkenswerte Geschichte über seine Zeit"
SPANISH = "es divertida , visualmente espectacular y muy entretenida , y simplemente sorprende"
RUSSIAN = "этот фильм очень длинная и довольно замечательная история о своём времени"


def examples(texts):
    return Examples(texts, ["x"] * len(texts), list(range(1, len(texts) + 1)), "a.csv")


def test_texts_in_another_language():
    texts = [*ENGLISH, GERMAN, "qué bueno", "zzz " * 20, SPANISH, RUSSIAN, f"{GERMAN}\n{GERMAN}"]
    finding = find_other_languages("test", examples(texts))
    assert finding.rows == (41, 44, 46)  # another script is a finding of its own
    assert "texts in test that do not look like 'en', the main language (2 'de', 1 'es')" in finding.message


@pytest.mark.parametrize("texts", [ENGLISH, [GERMAN] * 5, [*ENGLISH, "naïve café déjà vu"], ["ok", "lol", ""], []])
def test_nothing_is_found_in_one_language(texts):
    assert find_other_languages("train", examples(texts)) is None


def test_without_the_package_nothing_is_looked_at(monkeypatch):
    monkeypatch.setattr(languages, "PACKAGE", "a_package_that_is_not_there")
    assert find_other_languages("train", examples([*ENGLISH, GERMAN])) is None
