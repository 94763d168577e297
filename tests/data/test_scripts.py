import re

import pytest

from nlptl.data.scripts import find_other_scripts
from nlptl.data.sources import Examples


def found(texts):
    return find_other_scripts("train", Examples(texts, ["x"] * len(texts), range(1, len(texts) + 1)))


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
    finding = found(texts)
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
    assert found(texts) is None
