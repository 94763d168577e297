"""Texts in another script than most: a sign of another language, as far as one can be told without a model."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nlptl.data.findings import Finding, finding_on
from nlptl.data.sources import Examples

SCRIPTS = {
    "Latin": "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Cyrillic": "\u0400-\u052f",
    "Armenian": "\u0530-\u058f",
    "Hebrew": "\u0590-\u05ff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff",
    "Tamil": "\u0b80-\u0bff",
    "Thai": "\u0e00-\u0e7f",
    "Georgian": "\u10a0-\u10ff",
    "Ethiopic": "\u1200-\u137f",
    "Hangul": "\u1100-\u11ff\uac00-\ud7af",
    "Chinese or Japanese": "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff",
}
"""The letters of each script, as ranges of characters; other scripts are not told from each other."""

OTHER = "another script"

# Vowel signs are no word characters to Python; these are all signs of scripts that have such.
WORD = re.compile(r"[\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u109f\u1780-\u17ff]+")
"""A run of letters, digits and signs between them."""

_LETTERS = {name: re.compile(f"[{ranges}]") for name, ranges in SCRIPTS.items()}
# Letters that are not Latin, from Greek on, without signs and punctuation.
_OTHER_LETTER = re.compile("[\u0370-\u1dff\u1f00-\u1fff\u3040-\ud7af\uf900-\ufaff]")


def find_other_scripts(name: str, examples: Examples) -> Finding | None:
    """Return a finding on the texts of a split of which most letters are of another script than in most texts."""
    scripts = [script_of(text) for text in examples.texts]
    counts = Counter(script for script in scripts if script)
    if len(counts) < 2:
        return None
    main, *others = [script for script, _ in counts.most_common()]
    is_other = _is_in(scripts, set(others))
    shown = ", ".join(f"{counts[script]:,} in {script}" for script in others[:5])
    letters = "the same letters" if main == OTHER else f"{main} letters"
    what = f"{examples.source}: texts of {name} that are not in {letters} as the others are ({shown})"
    return finding_on("other_script", what, examples, is_other)


def _is_in(values: Sequence[str], wanted: set[str]) -> np.ndarray:
    return np.fromiter((value in wanted for value in values), dtype=bool, count=len(values))


def script_of(text: str) -> str:
    """Return the script that most letters of a text are of; nothing for a text without letters."""
    if text.isascii() or _OTHER_LETTER.search(text) is None:
        return "Latin" if _LETTERS["Latin"].search(text) else ""
    counts = {name: len(letters.findall(text)) for name, letters in _LETTERS.items()}
    counts[OTHER] = sum(map(str.isalpha, text)) - sum(counts.values())
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] > 0 else ""
