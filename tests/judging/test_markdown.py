"""Reports and cards as Markdown: what a parser of GitHub's dialect makes of them."""

import json
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nlptl import cli
from nlptl.judging.document import metric_name, name
from nlptl.judging.markdown import inline
from tests.judging.made_up import LABELS, METRICS, write_run
from tests.judging.test_report import HOSTILE

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tokens(markdown: str) -> list[Token]:
    """Return all tokens, those inside of lines too."""
    found = PARSER.parse(markdown)
    return [*found, *(child for token in found for child in token.children or ())]


def rows(markdown: str) -> list[list[str]]:
    """Return the cells of all tables as they are shown."""
    result: list[list[str]] = []
    for token, inside in zip(found := PARSER.parse(markdown), found[1:], strict=False):
        if token.type == "tr_open":
            result.append([])
        elif token.type in ("td_open", "th_open"):
            result[-1].append("".join(child.content for child in inside.children or ()))
    return result


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    cli.main(["report", str(folder), "--markdown"])
    return capsys.readouterr().out


@pytest.mark.parametrize("task", LABELS)
def test_each_kind_of_task_as_markdown(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_run(tmp_path / "run", task)
    markdown = shown(folder, capsys)
    assert not (folder / "report.html").exists()
    cells = rows(markdown)
    assert metric_name(METRICS[task][0]) in [row[0] for row in cells]
    assert ["typos", "390", "0.700", "-0.050", "-0.080 to -0.020", "10.0 %"] in cells
    assert ["encoder", "owner/encoder"] in cells
    assert "svg" not in markdown
    cli.main(["report", str(folder), "--markdown", "--output", str(tmp_path / "report.md")])
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown


def test_what_comes_from_the_data_means_nothing_in_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    labels = (f"a {HOSTILE}", f"b {HOSTILE}")
    folder = write_run(tmp_path / "run", labels=labels, text=HOSTILE, column=HOSTILE, dataset=f"/a {HOSTILE}")
    markdown = shown(folder, capsys)
    found = tokens(markdown)
    assert [t.content for t in found if t.type in ("html_inline", "html_block", "link_open", "image", "s_open")] == []
    counts = [len(row) for row in rows(markdown)]
    plain = [len(row) for row in rows(shown(write_run(tmp_path / "plain"), capsys))]
    assert counts == plain
    said = "\n".join(t.content for t in found if t.type == "code_inline")
    for part in (
        "<script>alert(1)</script>",
        "\\u202etxet\\u202c",
        "\\ud800",
        "| $a^2$ `x` https://evil.example/ @all",
    ):
        assert said.count(part) > 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        (name("a_label"), "`a_label`"),
        (f"row 3: {name('x')} as {name('y')}", "row 3: `x` as `y`"),
        (name("a `b` c"), "`` a `b` c ``"),
        (name(" \n "), ""),
        ("a*b*_c_ <b> [x](y) |", "a\\*b\\*\\_c\\_ \\<b\\> \\[x\\](y) \\|"),
        ("&lt;", "&amp;lt;"),
        ("@all #1 http://a www.b", "@\u2060all \\#\u20601 http:\u2060//a www\u2060.b"),
    ],
)
def test_a_line(text: str, expected: str):
    assert inline(text) == expected


def test_a_bar_divides_no_cell():
    assert inline(name("a|b")) == "`a|b`"
    assert inline(name("a|b"), in_table=True) == "`a\\|b`"
    table = f"| x | y |\n| --- | --- |\n| {inline(name('a|b'), in_table=True)} | {inline('c|d', in_table=True)} |\n"
    assert rows(table) == [["x", "y"], ["a|b", "c|d"]]


def test_code_with_backticks_stays_one_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_run(tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["command"] = ["recipe.py", "```", "<b>"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    blocks = [token.content for token in PARSER.parse(shown(folder, capsys)) if token.type == "fence"]
    assert "recipe.py '```' '<b>'\n" in blocks
    assert len(blocks) == 4


def test_markdown_needs_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = write_run(tmp_path / "run")
    with_figures = shown(folder, capsys)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "| accuracy | 0.750 | 0.710 to 0.780 | 400 | 0.500 |" in with_figures
    assert "| accuracy | 0.750 | 0.710 to 0.780 | 400 | 0.500 |" in shown(folder, capsys)
