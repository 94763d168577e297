"""Texts that nobody vouches for, such as labels, rows of a file and paths, made fit to be shown."""

import re

# What a terminal obeys, such as colours; what turns the order of the letters around it; and bytes that are no text.
_NOT_TO_BE_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    """Return `text` as `printable` does, with line breaks and tabs, which break tables, as Python writes them."""
    return re.sub("[\n\t]", lambda found: ascii(found[0])[1:-1], printable(text))


def printable(text: str) -> str:
    """Return `text` with what a terminal would obey or refuse, but for tabs and line feeds, as Python writes it."""
    return _NOT_TO_BE_SHOWN.sub(lambda found: ascii(found[0])[1:-1], text)
