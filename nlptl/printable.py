"""Escape control characters in untrusted text, such as labels, rows of a file and paths, before printing it."""

import re

# Control sequences of terminals, such as colours; marks that change the direction of text; bytes that are not text.
_NOT_TO_BE_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    """Return `text` as `printable` does, with line breaks and tabs, which break tables, as Python escapes too."""
    return re.sub("[\n\t]", lambda found: ascii(found[0])[1:-1], printable(text))


def printable(text: str) -> str:
    """Return `text` with control characters, except tabs and line feeds, as Python escapes."""
    return _NOT_TO_BE_SHOWN.sub(lambda found: ascii(found[0])[1:-1], text)
