"""Words that give the class away: the names of classes in their own texts, and words that occur in only one class."""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from nlptl.config import TextsShown
from nlptl.data.findings import Finding, finding_on
from nlptl.data.languages import WORD
from nlptl.data.sources import Examples

MIN_TEXTS = 20
"""A word in fewer texts is never reported."""
MIN_SHARE = 0.05
"""Share of the texts of train in which a word occurs that gives a class away without being its name."""
MAX_OTHERS = 0.02
"""Share of the texts with the name of a class that may have another class."""
MAX_CHANCE = 1e-3
"""Chance, over all words, that the texts with a word have one class by luck, below which they are reported."""
SAMPLE_SIZE = 1000

_LABEL_PART = re.compile(r"[^\W\d_]+")


def find_leaking_words(train: Examples, *, texts_shown: TextsShown = "whole") -> list[Finding]:
    """Return a finding on label names in texts of their own class, and one on other words that occur in one class.

    Candidates come from a sample of the texts, at equal distances, and are then counted in all texts.

    With texts_shown "none", the words are not quoted.
    """
    texts = range(0, len(train), max(1, len(train) // SAMPLE_SIZE))
    sample = [(_words(train.texts[i]), train.labels[i]) for i in texts]
    classes_of: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for words, label in sample:
        for word in set(words):
            counts[word] += 1
            classes_of[word].add(label)
    # The share may be above the limit in all texts and somewhat below it in the sample.
    min_count = min(MIN_TEXTS, MIN_SHARE * len(sample)) / 2
    single = {word for word, count in counts.items() if count >= min_count and len(classes_of[word]) == 1}
    labels = sorted(set(train.labels))
    names = {name: label for label in labels for name in _forms(label, counts)}
    names |= {label.casefold(): label for label in labels if label.casefold() in names}  # before a form of another one
    found = _count(train, single | names.keys())
    others = single - names.keys()
    quote = (lambda word: "a word") if texts_shown == "none" else repr
    return _label_words(train, names, found, quote) + _leaking_words(train, others, found, len(counts), quote)


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _forms(label: str, vocabulary: Iterable[str]) -> set[str]:
    """Return the name of a class, one word or two, and the words that are a form of it, as "sports" is of "sport"."""
    parts = [part for part in _LABEL_PART.findall(label.casefold()) if len(part) > 2]
    if len(parts) != 1:
        return {" ".join(parts)} if len(parts) == 2 else set()
    name = parts[0]
    stem = name[:-1] if len(name) > 5 and name[-1] in "aeosy" else name
    return {name} | {word for word in vocabulary if word.startswith(stem) and len(word) <= len(stem) + 3}


def _count(train: Examples, candidates: set[str]) -> dict[str, list[int]]:
    """Return for each word or pair of words the texts that it occurs in, by their places in train."""
    places: dict[str, list[int]] = defaultdict(list)
    pairs = defaultdict(list)
    for pair in candidates:
        if " " in pair:
            pairs[pair.partition(" ")[0]].append(pair)
    wanted = candidates | pairs.keys()
    for i, text in enumerate(train.texts if wanted else ()):
        words = _words(text)
        here = wanted.intersection(words)
        for word in here & candidates:
            places[word].append(i)
        if here & pairs.keys():
            for pair in candidates.intersection(map(" ".join, itertools.pairwise(words))):
                places[pair].append(i)
    return places


def _label_words(
    train: Examples, names: dict[str, str], found: dict[str, list[int]], quote: Callable[[str], str]
) -> list[Finding]:
    shown, meant = [], []
    for name, label in sorted(names.items()):
        own = [i for i in found.get(name, ()) if train.labels[i] == label]
        others = len(found.get(name, ())) - len(own)
        if len(own) >= MIN_TEXTS and others <= MAX_OTHERS * len(found[name]):
            shown.append(f"{quote(name)} in {len(own):,} texts of {label!r} and {others:,} of others")
            meant += own
    return _finding("label_word", "names of classes in their texts", train, shown, meant)


def _leaking_words(
    train: Examples, words: set[str], found: dict[str, list[int]], vocabulary: int, quote: Callable[[str], str]
) -> list[Finding]:
    shares = {label: count / len(train) for label, count in Counter(train.labels).items()}
    shown, meant = [], []
    for word in sorted(words, key=lambda word: (-len(found.get(word, ())), word)):
        places = found.get(word, [])
        labels = {train.labels[i] for i in places}
        if len(labels) != 1 or len(places) < max(MIN_TEXTS, MIN_SHARE * len(train)):
            continue
        (label,) = labels
        if len(places) * math.log(shares[label]) + math.log(vocabulary) < math.log(MAX_CHANCE):
            shown.append(f"{quote(word)} in {len(places):,} texts, all {label!r}")
            meant += places
    return _finding("leaking_word", "words that occur in only one class", train, shown, meant)


def _finding(kind: str, what: str, train: Examples, shown: list[str], places: list[int]) -> list[Finding]:
    more = f"; ... ({len(shown)} such words)" if len(shown) > 5 else ""
    is_meant = map(set(places).__contains__, range(len(train)))
    found = finding_on(kind, f"{what} in train ({'; '.join(shown[:5])}{more})", train, is_meant)
    return [] if found is None else [found]
