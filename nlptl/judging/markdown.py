"""Reports and model cards as GitHub Markdown."""

import re
from collections.abc import Iterator, Sequence

from nlptl.judging.document import FIRST, LAST, Code, Part, Quotes, Section, Table, Weighted, Words

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~$])")
_JOINER = "\u2060"
"""A character without width that keeps GitHub from linking a mention, an issue or an address."""


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a report as Markdown, without its figures and tiles."""
    lines = [f"# {inline(title)}", ""]
    for section in sections:
        if parts := [line for part in section.parts for line in part_lines(part)]:
            lines += [f"## {inline(section.title)}", "", *parts]
    return "\n".join(lines).rstrip("\n") + "\n"


def inline(text: str, *, in_table: bool = False) -> str:
    """Return a text for a line or a cell: the user's data as code, the rest escaped."""
    pieces = re.split(f"{FIRST}([^{LAST}]*){LAST}", text)
    return "".join(_code(piece, in_table=in_table) if i % 2 else _escaped(piece) for i, piece in enumerate(pieces))


def part_lines(part: Part) -> Iterator[str]:
    """Yield the lines of a part and an empty line; nothing for figures and tiles."""
    if isinstance(part, Words):
        yield from (f"**Warning:** {inline(part.text)}" if part.is_warning else inline(part.text), "")
    elif isinstance(part, Table):
        yield from table_lines(part)
    elif isinstance(part, Quotes):
        yield from (f"**{inline(part.caption)}**", "")
        for about, text in part.quotes:
            yield f"- {inline(about)}"
            yield from () if text is None else (f"  {inline(line)}  " for line in _lines(text))
        yield ""
    elif isinstance(part, Weighted):
        yield from (f"**{inline(part.caption)}**", "", inline(part.summary), "")
    elif isinstance(part, Code):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", part.text)), default=0))
        yield from (f"{inline(part.caption)}:", "", fence, *part.text.split("\n"), fence, "")


def table_lines(table: Table) -> Iterator[str]:
    """Yield the lines of a table, its caption first."""
    yield from (f"**{inline(table.caption)}**", "")
    columns = [inline(column, in_table=True) or " " for column in table.columns]
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join(' --- ' if i < table.texts else ' ---: ' for i in range(len(columns)))}|"
    for i, row in enumerate(table.rows):
        cells = [inline(cell, in_table=True) for cell in row]
        yield f"| {' | '.join([f'**{cells[0]}**', *cells[1:]] if i in table.marked else cells)} |"
    yield ""


def _lines(text: str) -> list[str]:
    """Split a text at line breaks, except those inside the user's data."""
    return re.split(f"\n(?=[^{LAST}]*(?:{FIRST}|$))", text)


def _code(text: str, *, in_table: bool) -> str:
    """Return the user's text as code, so that it cannot act as Markdown, HTML, a link or a mention."""
    flat = " ".join(text.split())
    if not flat:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", flat)), default=0))
    space = " " if "`" in flat else ""
    code = f"{fence}{space}{flat}{space}{fence}"
    return code.replace("|", "\\|") if in_table else code


def _escaped(text: str) -> str:
    flat = re.sub(r"\s+", " ", _MARKUP.sub(r"\\\1", text.replace("&", "&amp;")))
    return re.sub(r"(@|\\#|:(?=//)|\bwww(?=\.))", rf"\1{_JOINER}", flat)
