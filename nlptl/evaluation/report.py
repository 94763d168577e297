"""Scores for the eye: small tables for the console, or in Markdown."""

from collections.abc import Sequence

from nlptl.evaluation.metrics import Scores


def score_table(
    scores: Scores, *, split: str, baseline: Scores | None = None, baseline_name: str = "majority baseline"
) -> str:
    """Return a table of each score with its 95 % interval, the number of examples and the score of a baseline."""
    rows = [(split, "value", "95 % interval", "n", "" if baseline is None else baseline_name)]
    for name, score in scores.items():
        majority = "" if baseline is None else f"{baseline[name].value:.4f}"
        interval = f"{score.low:.4f} to {score.high:.4f}"
        rows.append((name, f"{score.value:.4f}", interval, f"{score.n:,}", majority))
    return align_table(rows)


def class_table(scores: Scores) -> str:
    """Return a table with one row per class: its scores, such as precision and recall, and the number of examples."""
    width = max(5, *(len(name) for name in scores.per_class))
    metrics = list(next(iter(scores.per_class.values())))
    widths = [max(6, len(metric)) for metric in metrics]
    header = "  ".join(f"{metric:>{w}}" for metric, w in zip(metrics, widths, strict=True))
    lines = [f"{'class':<{width}}  {header}        n"]
    for name, row in scores.per_class.items():
        values = "  ".join(f"{row[metric].value:>{w}.4f}" for metric, w in zip(metrics, widths, strict=True))
        lines.append(f"{name:<{width}}  {values}  {row[metrics[-1]].n:>7,}")
    return "\n".join(lines)


def align_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the first one the header, as lines; the first column is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the first one the header, as a table in Markdown."""
    # What would end a cell, or begin HTML, in the name of a run or a label.
    shown = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in shown]
    return "\n".join([lines[0], "|" + " --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]])
