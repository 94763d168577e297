"""Format scores as tables for the console."""

from nlptl.evaluation.metrics import Scores
from nlptl.wording import align_table


def score_table(
    scores: Scores, *, split: str, baseline: Scores | None = None, baseline_name: str = "majority baseline"
) -> str:
    """Return a table of each score with its 95 % interval, the number of examples and the score of a baseline."""
    rows = [[split, "value", "95 % interval", "n", *([] if baseline is None else [baseline_name])]]
    for name, score in scores.items():
        beside = [] if baseline is None else [f"{baseline[name].value:.4f}"]
        rows.append([name, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}", f"{score.n:,}", *beside])
    return align_table(rows)


def class_table(scores: Scores) -> str:
    """Return a table with one row per class: its scores, such as precision and recall, and the number of examples."""
    metrics = list(next(iter(scores.per_class.values())))
    rows = [["class", *metrics, "n"]]
    for name, row in scores.per_class.items():
        rows.append([name, *(f"{row[metric].value:.4f}" for metric in metrics), f"{row[metrics[-1]].n:,}"])
    return align_table(rows)
