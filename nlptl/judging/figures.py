"""Figures as inline SVG, drawn by matplotlib, with the colours and fonts of the page's style sheet.

Placeholder colours are drawn and then replaced by variables of the style sheet, so that one drawing serves light and
dark mode; text stays text. The same numbers give the same bytes. Each figure has a `key`, the prefix of its ids on the
page, and a caption.
"""

import importlib.util
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptl.judging.document import Picture, decimal, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID, ONE, TWO = "#010101", "#020202", "#030303", "#040404"
COLOURS = {INK: "var(--ink)", GRID: "var(--line)", ONE: "var(--one)", TWO: "var(--two)"}

WIDTH = 300
"""Width of a figure that fits a phone, in units in which letters are 10 high."""

STRONGEST = 0.5
"""Largest opacity of a cell: text on it keeps a contrast of 4.5 to 1 in light and dark mode."""

MOST_POINTS = 300
MOST_LETTERS = 27
MOST_CLASSES = 20

STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
    **dict.fromkeys(("svg.fonttype", "figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "path.simplify"), False),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.0),
    "font.size": 10.0,
    "svg.hashsalt": "nlptl",
    "text.parse_math": False,  # a dollar sign in the name of a label is not math
    "axes.unicode_minus": True,
    "axes.grid": True,
    "grid.linewidth": 0.6,
}


def can_draw() -> bool:
    """Return whether matplotlib (extra `report`) is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_line(
    key: str, caption: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, mark: float | None = None
) -> Picture:
    """Draw one or two lines, (steps, values) by name, over the steps of training; `mark` is the step that was kept."""
    has_legend = len(lines) + (mark is not None) > 1

    def draw(axes: "Axes") -> None:
        for (label, (steps, values)), colour, dash in zip(lines.items(), (ONE, TWO), ("-", "--"), strict=False):
            chosen = _some(len(steps))
            style = {"marker": "o", "markersize": 3} if len(chosen) <= 40 else {}
            x, y = np.asarray(steps, float)[chosen], np.asarray(values, float)[chosen]
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.6, label=label, **style)  # type: ignore[arg-type]
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=0.8, linestyle=":", label=f"kept: step {mark:,.0f}")
        axes.set_xlabel("step")
        if has_legend:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1.6, columnspacing=1.2)

    told = "; ".join(
        f"{label}: {decimal(values[0])} at step {steps[0]:,.0f}, {decimal(values[-1])} at step "
        f"{steps[-1]:,.0f}, between {decimal(min(values))} and {decimal(max(values))}"
        for label, (steps, values) in lines.items()
    )
    top = 26 if has_legend else 8
    return _picture(key, caption, f"{caption}. {told}.", draw, height=190, left=44, top=top, bottom=34)


def draw_intervals(
    key: str, caption: str, rows: Sequence[tuple[str, float, float | None, float | None]], *, reference: float | None
) -> Picture:
    """Draw rows of name, value, and low and high end, one below the other, and a line at `reference` unless None."""
    labels = [shorten(label, MOST_LETTERS) for label, *_ in rows]

    def draw(axes: "Axes") -> None:
        for y, (_, value, low, high) in enumerate(rows):
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=ONE, linewidth=2.2, solid_capstyle="butt")
            axes.plot([value], [y], color=ONE, marker="o", markersize=5)
        if reference is not None:
            axes.axvline(reference, color=TWO, linewidth=1.2, linestyle="--")
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=4)

    told = "; ".join(
        f"{label}: {decimal(value)}" + ("" if low is None or high is None else f" ({decimal(low)} to {decimal(high)})")
        for label, value, low, high in rows
    )
    line = "" if reference is None else f" The dashed line is at {decimal(reference)}."
    height = 18 * len(rows) + 36
    return _picture(key, caption, f"{caption}. {told}.{line}", draw, height=height, left=_room(labels), bottom=26)


def draw_confusion(key: str, caption: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Picture:
    """Draw a confusion matrix: labels in rows, predictions in columns; shades are fractions of the row."""
    from matplotlib.patches import Rectangle

    matrix, labels = np.asarray(counts), [shorten(label, MOST_LETTERS) for label in names]
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares = matrix / totals
    size = len(names)
    cell = max(26, min(60, 200 // size), 6 * len(f"{matrix.max()}") + 6)

    def draw(axes: "Axes") -> None:
        for i in range(size):
            for j in range(size):
                alpha = round(STRONGEST * float(shares[i, j]) ** 0.5, 3)  # the root makes rare mistakes visible
                colour = ONE if i == j else TWO
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, alpha=alpha, linewidth=0))
                if matrix[i, j]:
                    axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=10 if size <= 8 else 9)
        axes.set_xticks(range(size), labels, rotation=0 if max(map(len, labels)) * 6 < cell else 90)
        axes.set_yticks(range(size), labels)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.grid(visible=False)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("predicted")
        axes.set_ylabel("label")

    right = int(np.trace(matrix))
    told = f"{right:,} of {int(matrix.sum()):,} on the diagonal, where label and prediction are equal"
    room = _room(labels)
    top = 34 if max(map(len, labels)) * 6 < cell else room + 26
    width, height = room + 18 + cell * size + 8, top + cell * size + 8
    return _picture(
        key, caption, f"{caption}. {told}.", draw, width=width, height=height, left=room + 18, top=top, bottom=8
    )


def draw_reliability(key: str, caption: str, bins: Sequence[dict[str, Any]]) -> Picture:
    """Draw the accuracy and the number of the predictions in each bin of probability."""
    filled = [each for each in bins if each["n"]]

    def draw(axes: "Axes") -> None:
        most = max((each["n"] for each in filled), default=1)
        for each in filled:
            width = each["high"] - each["low"]
            axes.bar(each["low"], 0.3 * each["n"] / most, width=width, align="edge", color=GRID, linewidth=0)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        x, y = ([each[what] for each in filled] for what in ("confidence", "accuracy"))
        axes.plot(x, y, color=ONE, marker="o", markersize=4, linewidth=1.6, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("accuracy")

    told = "; ".join(f"{each['confidence']:.2f}: {each['accuracy']:.2f} ({each['n']:,} texts)" for each in filled)
    alternative = f"{caption}. Accuracy by mean probability: {told}."
    return _picture(key, caption, alternative, draw, height=250, left=44, top=10, bottom=36)


def _picture(
    key: str,
    caption: str,
    alternative: str,
    draw: Any,
    *,
    height: int,
    left: int,
    bottom: int,
    top: int = 8,
    width: int = WIDTH,
) -> Picture:
    """Return axes filled by `draw` as SVG, with the given margins around them."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser has glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure: Figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes(
            (left / width, bottom / height, (width - left - 8) / width, (height - top - bottom) / height)
        )
        draw(axes)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Picture(caption, alternative, _inline(buffer.getvalue(), key, alternative), width)


def _inline(svg: str, key: str, alternative: str) -> str:
    """Return an SVG for a page: unique ids, no size, and the colours and fonts of the style sheet."""

    def tag(found: re.Match[str]) -> str:
        text = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", found[0])
        text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{key}-", text).replace("xlink:href", "href")
        text = re.sub(r"font(-family)?: [^;\"]*'DejaVu Sans'[^;\"]*", _font_size, text)
        for drawn, shown in COLOURS.items():
            text = text.replace(drawn, shown)
        return text

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", tag, body)
    view = re.search(r'viewBox="[^"]*"', body)
    assert view is not None
    start = f'<svg {view[0]} role="img" aria-label="{escape(alternative)}"><title>{escape(alternative)}</title>'
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"^<svg[^>]*>", lambda _: start, body)).strip()


def _font_size(found: re.Match[str]) -> str:
    size = re.search(r"\d+(\.\d+)?px", found[0])
    return f"font-size: {size[0]}" if size else ""


def _some(count: int) -> np.ndarray:
    """Return the indices of the points to draw: all, or evenly spaced ones with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))


def _room(labels: Sequence[str]) -> int:
    """Return the width of labels with letters 9 high; wide letters such as Chinese count double."""
    import unicodedata

    widths = [sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in label) for label in labels]
    return 16 + int(5.6 * max(widths, default=0))
