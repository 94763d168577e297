"""E-mail addresses, links and numbers in texts, and <email>, <link> and <number> in their place.

What is masked is wide on purpose: every word with a digit is a number, since the number of a customer or an account
often is one, and what stands between two such words with it. Names, places and numbers in words stay. Every pattern
begins at the beginning of a run of signs and takes the run in one piece, so that time is linear in any text.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nlptl.config import TextsShown

MOST_SIGNS = 1000
"""Of longer texts the beginning is shown."""

# Top-level domains by which a link without http:// or www. is known; a host with another one needs a path.
_DOMAINS = re.compile(
    "com|org|net|edu|gov|mil|info|biz|app|dev|xyz|online|shop|site|store|tech|cloud|blog|news|io|ai|tv|ly|gg|co|uk|de|fr|"
    "es|nl|eu|ru|cn|jp|kr|br|au|ca|ch|se|dk|fi|pl|cz|pt|gr|tr|ua|ro|hu|mx|ar|za|nz|ie|sg|hk|tw|ir|il"
)
_LOCAL = r"\w.!#$%&'*+/=?^`|~-"  # RFC 5322, section 3.2.3, and letters of all scripts
_AT = r"(?:[@\uff20\ufe6b]|\s?[(\[{]\s?at\s?[)\]}]\s?)"
_DOT = r"(?:[.\u3002\uff0e]|\s?[(\[{]\s?dot\s?[)\]}]\s?)"
_DIGIT = r"\d\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u218b\u2460-\u249b"
_LETTER = r"A-Za-z_\u00c0-\u024f\u0370-\u052f"  # of scripts that put blanks between words
_NUMERAL = rf"[{_LETTER}]*+[{_DIGIT}][{_LETTER}{_DIGIT}]*+"

_LINK = re.compile(r"(?<![\w+.-])(?:[\w+.-]++://|www\d?\.(?=\w))\S++", re.IGNORECASE)
_EMAIL = re.compile(
    rf"(?:\"[^\"\n]{{1,64}}\"|(?<![{_LOCAL}])[{_LOCAL}]++){_AT}(?:\[[\w.:]++\]|\w[\w-]*+(?:{_DOT}[\w-]++)*+)",
    re.IGNORECASE,
)
_HOST = re.compile(r"(?<![\w@.-])\w[\w-]*+(?:\.[\w-]++)++")
_PATH = re.compile(r"[:/?#][^\s\0]++")
_NUMBER = re.compile(
    rf"(?<![{_LETTER}{_DIGIT}])"
    r"(?:[A-Z]{2}\d\d ?[A-Z]{4} ?(?=\d))?+"  # the bank of an IBAN (ISO 13616) has letters alone
    rf"{_NUMERAL}(?:[ \t\u00a0\u2009\u202f.,:;/()+*\u2010-\u2015-]{{1,3}}+{_NUMERAL})*+"
)


BLOT = "\0"
"""In place of the signs of what one pattern has found, so that no other one sees it."""


class Private(NamedTuple):
    """A part of a text that is masked, text[start:end], and what stands in its place."""

    start: int
    end: int
    mask: str


def find_private(text: str) -> list[Private]:
    """Return the e-mail addresses, links and numbers of a text in their order; none overlap."""
    found: list[Private] = []
    for mask, find in (("<link>", _links), ("<email>", _emails), ("<link>", _hosts), ("<number>", _numbers)):
        parts = [Private(start, end, mask) for start, end in find(text)]
        text = _replace(text, parts, [BLOT * (part.end - part.start) for part in parts])
        found += parts
    return sorted(found)


def mask_text(text: str) -> str:
    """Return a text with <email>, <link> and <number> in place of these."""
    parts = find_private(text)
    return _replace(text, parts, [part.mask for part in parts])


def show_text(text: str, shown: TextsShown) -> str | None:
    """Return what a file may hold of a text: of a long one the beginning; None: nothing."""
    if shown == "none":
        return None
    text = mask_text(text) if shown == "masked" else text
    return text if len(text) <= MOST_SIGNS else text[: MOST_SIGNS - 1] + "\u2026"


def _replace(text: str, parts: Sequence[Private], others: Sequence[str]) -> str:
    pieces, end = [], 0
    for part, other in zip(parts, others, strict=True):
        pieces += [text[end : part.start], other]
        end = part.end
    return "".join([*pieces, text[end:]])


def _links(text: str) -> Iterator[tuple[int, int]]:
    for match in _LINK.finditer(text):
        yield match.start(), match.start() + len(_without_punctuation(match[0]))


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for match in _EMAIL.finditer(text):
        skipped = re.match(r"[\W_]*+", match[0])
        start = match.start() + (skipped.end() if skipped else 0)
        if text[start - 1 : start] not in ("@", "\uff20", "\ufe6b"):  # a mention such as @name has nothing before it
            yield start, match.end()


def _hosts(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    while match := _HOST.search(text, end):
        end = match.end()
        _, *labels = match[0].lower().split(".")
        has_path = text[match.end() : match.end() + 1] == "/" and len(labels[-1]) >= 2 and labels[-1].isalpha()
        if has_path or any(map(_DOMAINS.fullmatch, labels)):
            path = _PATH.match(text, end)
            end = path.end() if path else end
            whole = text[match.start() : end]
            yield match.start(), match.start() + len(_without_punctuation(whole))


def _numbers(text: str) -> Iterator[tuple[int, int]]:
    for match in _NUMBER.finditer(text):
        yield match.start(), match.end()


def _without_punctuation(link: str) -> str:
    return link.rstrip(".,;:!?)]}>'\"\u201d\u2019\u00bb")
