"""Text for messages and the console: lists of names and aligned tables."""

from collections.abc import Iterable, Sequence

from nlptl.printable import one_line


def list_names(names: Iterable[object], most: int = 20) -> str:
    """Return names as Python writes them, separated by commas; of more than `most`, the first ones and their number."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:most]) + (f", ... ({len(shown):,} in all)" if len(shown) > most else "")


def align_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the first one the header, as lines; the first column is aligned left, the others right."""
    rows = [list(map(one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the first one the header, as a table in Markdown."""
    # Escapes what would end a cell, or begin HTML, in the name of a run or a label.
    shown = [[one_line(cell).replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in shown]
    return "\n".join([lines[0], "|" + " --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]])
