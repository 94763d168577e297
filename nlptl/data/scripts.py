"""Texts in another script than most: a sign of another language, as far as one can be told without a model."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import regex

from nlptl.data.findings import Finding, finding_on
from nlptl.data.sources import Examples

SCRIPTS = (
    *("Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Tamil", "Thai"),
    *("Georgian", "Ethiopic", "Hangul"),
)
"""Scripts by their names in Unicode. Chinese and Japanese are one; others are not told from each other."""

OTHER = "another script"

# Vowel signs are no word characters to Python; these are all signs of scripts that have such.
WORD = re.compile(r"[\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u109f\u1780-\u17ff]+")
"""A run of letters, digits and signs between them."""

_LETTERS = {name: regex.compile(rf"\p{{Script={name}}}") for name in SCRIPTS}
_LETTERS["Chinese or Japanese"] = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
_OTHER_LETTER = regex.compile(r"[^\P{L}\p{Latin}]")


def find_other_scripts(name: str, examples: Examples) -> Finding | None:
    """Return a finding on the texts of a split of which most letters are of another script than in most texts."""
    scripts = [script_of(text) for text in examples.texts]
    counts = Counter(script for script in scripts if script)
    if len(counts) < 2:
        return None
    main, *others = [script for script, _ in counts.most_common()]
    is_other = _is_in(scripts, set(others))
    shown = ", ".join(f"{counts[script]:,} in {script}" for script in others[:5])
    usual = "that of most texts" if main == OTHER else f"{main}, the main script"
    what = f"{examples.source}: texts in {name} whose script is not {usual} ({shown})"
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
