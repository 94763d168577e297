"""The sections of a report on what was found out about the predictions on test: they are made from analysis.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from nlptl.judging import figures
from nlptl.judging.document import (
    MANY_ROWS,
    MOST_ROWS,
    Part,
    Quotes,
    Section,
    Table,
    Weighted,
    Words,
    capital,
    count,
    cut,
    decimal,
    interval,
    metric_name,
    name,
    p_value,
    percent,
    shorten,
    signed,
)
from nlptl.judging.run_files import RunFiles

FEW_SLICES = 8
MOST_SLICES = 30
MOST_DRAWN = 8
MOST_LETTERS = 120
MOST_TOKENS = 400
MOST_PAIRS = 10
STRONGEST = 5


def calibration(run: RunFiles) -> Section | None:
    """Return how far probabilities can be believed, before and after calibration."""
    found = run.analysis.get("calibration")
    if not found:
        return None
    before, after = found.get("before") or {}, found.get("after") or {}
    method = found.get("method", "none")
    parts: list[Part] = [Words(calibrated(found))]
    reliability = found.get("reliability") or {}
    for key, caption in (("before", "Reliability before calibration"), ("after", "Reliability after calibration")):
        bins = reliability.get(key)
        if bins and figures.can_draw() and not (key == "after" and method == "none"):
            parts.append(figures.draw_reliability(f"reliability-{key}", caption, bins))
    rows = [[metric_name(key), decimal(before[key]), decimal(after.get(key))] for key in before]
    parts.append(Table("Before and after calibration", ("score", "before", "after"), rows))
    return Section("Calibration", parts)


def calibrated(found: Mapping[str, Any]) -> str:
    """Return how far probabilities can be believed, from the calibration in analysis.json."""
    before, after = found.get("before") or {}, found.get("after") or {}
    method = found.get("method", "none")
    if method == "none" or not after:
        off = decimal(before.get("ece"))
        return f"Probabilities are those of the model, not calibrated; they are off by {off} on average (ECE)."
    ways = {
        "temperature": "one temperature for all logits",
        "vector": "a scale and a shift for each class",
        "platt": "a logistic function for each label",
    }
    return (
        f"Probabilities are calibrated on validation by {ways.get(method, method)}: on average they are off by "
        f"{decimal(after.get('ece'))} (ECE), before by {decimal(before.get('ece'))}."
    )


def decisions(run: RunFiles) -> Section | None:
    """Return what `predict` does besides taking the most probable label."""
    parts: list[Part] = [Words(line) for line in decided(run)]
    if not run.is_calibrated_anew:
        parts += [Words(f"On {run.split}: {name(line)}.") for line in run.analysis.get("remarks") or []]
    thresholds = run.model.get("thresholds")
    if thresholds:
        rows = [[name(label), decimal(each)] for label, each in zip(run.model["labels"], thresholds, strict=True)]
        caption = f"From which probability on a label is given{cut(len(rows))}"
        parts.append(Table(caption, ("label", "threshold"), rows[:MOST_ROWS], is_long=len(rows) > MANY_ROWS))
    return Section("Decisions", parts) if parts else None


def decided(run: RunFiles) -> list[str]:
    """Return a sentence on each decision that was chosen on validation."""
    found, labels, lines = run.model.get("decisions") or {}, run.model.get("labels") or [], []
    if found.get("threshold") is not None:
        lines.append(f"{name(labels[1])} is predicted from a probability of {decimal(found['threshold'])} on.")
    abstention = found.get("abstention")
    if abstention:
        line = f"No label is given where the probability of the best one is below {decimal(abstention['below'])}"
        if abstention.get("accuracy") is not None:
            line += (
                f"; of the texts that this was chosen on, {percent(abstention['coverage'])} got a label, of which "
                f"{percent(abstention['accuracy'])} were right"
            )
        lines.append(f"{line}.")
    if found.get("sets"):
        lines.append(
            f"With each prediction comes a set of labels, which holds the true one with a probability of "
            f"{decimal(found['sets']['coverage'])} (split conformal prediction, fitted on {count(found['sets']['n'])} "
            "texts)."
        )
    if found.get("scope"):
        lines.append(
            f"Texts unlike those of training are labelled out of scope; {percent(found['scope']['kept'])} of those "
            "that this was chosen on were in scope."
        )
    return lines


def confusion(run: RunFiles) -> Section | None:
    """Return which labels are taken for which."""
    matrix, pairs = run.analysis.get("confusion"), run.analysis.get("confused") or []
    if not matrix and not pairs:
        return None
    parts: list[Part] = []
    if matrix:
        labels, counts = matrix["names"], matrix["counts"]
        if figures.can_draw() and len(labels) <= figures.MOST_CLASSES:
            caption = "Confusion matrix: labels in rows, predictions in columns"
            parts.append(figures.draw_confusion("confusion", caption, labels, counts))
        else:
            rows = [[name(label), *map(count, row)] for label, row in zip(labels, counts, strict=True)]
            columns = ("label \\ predicted", *map(name, labels))
            parts.append(Table("Counts of labels (rows) and predictions (columns)", columns, rows))
    if pairs:
        rows = [[name(p["label"]), name(p["predicted"]), count(p["count"]), percent(p["share"])] for p in pairs]
        columns = ("label", "predicted", "texts", "share of it")
        parts.append(Table("Labels that are taken for others", columns, rows[:MOST_PAIRS], texts=2))
        if run.task in ("multi_label", "tokens"):
            parts.append(Words("(none) as the label: given where nothing was missed; as the prediction: missed."))
    return Section("Confusion", parts)


def slices(run: RunFiles) -> Section | None:
    """Return on which parts of the texts the model is worse."""
    found = run.analysis.get("slices")
    if not found or not found.get("rows"):
        return None
    rows, metric = found["rows"], metric_name(found["metric"])
    parts: list[Part] = [Words(_flags(found))]
    drawn = [
        (f"{row['column']}: {row['value']}", row["score"], row.get("low"), row.get("high"))
        for row in rows[:MOST_DRAWN]
        if row["score"] is not None
    ]
    if drawn and figures.can_draw():
        caption = f"{capital(metric)} on slices; dashed: on all texts"
        parts.append(figures.draw_intervals("slices", caption, drawn, reference=found["overall"]))
    columns = ("slice", metric, "difference to the rest", "p", "texts", "95 % interval", "")
    shown = rows[: max(FEW_SLICES, sum(bool(row["flagged"]) for row in rows[:MOST_SLICES]))]
    cells = [
        [
            f"{name(row['column'])}: {name(row['value'])}",
            decimal(row["score"]),
            signed(row["difference"]),
            p_value(row["p"]),
            count(row["n"]),
            interval(row),
            "flagged" if row["flagged"] else "",
        ]
        for row in shown
    ]
    marked = frozenset(i for i, row in enumerate(shown) if row["flagged"])
    parts.append(Table("Slices, the strongest evidence first", columns, cells, marked=marked))
    return Section("Slices", parts)


def _flags(found: Mapping[str, Any]) -> str:
    flagged = sum(bool(row["flagged"]) for row in found["rows"])
    overall = f"On all texts, {metric_name(found['metric'])} is {decimal(found['overall'])}."
    tested = found.get("tested", len(found["rows"]))
    if not flagged:
        return f"Of {count(tested)} slices none is flagged: on none is the model worse by more than chance. {overall}"
    are = "is" if flagged == 1 else "are"
    return f"Of {count(tested)} slices {flagged} {are} flagged: there the model is worse than on the rest. {overall}"


def errors(run: RunFiles) -> Section | None:
    """Return the predictions that are furthest off."""
    found = run.analysis.get("errors") or {}
    parts: list[Part] = []
    for key, caption in (("highest_loss", "Highest loss"), ("most_confident", "Most confident mistakes")):
        if found.get(key):
            quotes = [(_about(each), None if each.get("text") is None else name(each["text"])) for each in found[key]]
            parts.append(Quotes(caption, quotes, is_long=bool(parts)))
    if not parts:
        return None
    if run.analysis.get("texts_shown") == "none":
        parts.insert(0, Words("Texts are not shown; the rows are those of the data set."))
    return Section("Errors", parts)


def _about(each: Mapping[str, Any]) -> str:
    label, predicted = (name(shorten(str(each[key]), MOST_LETTERS)) for key in ("label", "predicted"))
    line = f"Row {each['row']}: {label} predicted as {predicted}"
    if each.get("probability") is not None:
        line += f", probability {decimal(each['probability'])}"
    return line + (f", loss {decimal(each['loss'])}" if each.get("loss") is not None else "")


def probes(run: RunFiles) -> Section | None:
    """Return what small changes of the texts do."""
    found = run.analysis.get("probes")
    if not found:
        return None
    rows = [
        [
            name(each["name"]),
            count(each["changed"]),
            decimal(each["score"]),
            signed(each["difference"]),
            interval({"low": each.get("difference_low"), "high": each.get("difference_high")}),
            percent(each["flipped"]),
        ]
        for each in found
    ]
    metric = metric_name((run.analysis.get("slices") or {}).get("metric", run.metric))
    columns = ("change", "texts changed", metric, "difference", "95 % interval of it", "predictions that flip")
    return Section("Robustness", [Table("What small changes of the texts do", columns, rows)])


def attributions(run: RunFiles) -> Section | None:
    """Return what single words add to a prediction."""
    found = run.analysis.get("attributions")
    if not found:
        return None
    parts: list[Part] = [
        Words("Words of positive weight (blue) speak for the predicted label, of negative weight (orange) against it.")
    ]
    for each in found:
        tokens = [(str(token), float(weight)) for token, weight in each["tokens"][:MOST_TOKENS]]
        label, predicted, target = (
            name(shorten(str(each.get(k)), MOST_LETTERS)) for k in ("label", "predicted", "target")
        )
        caption = f"Row {each['row']}: {label} predicted as {predicted}"
        caption += f"; for or against {target}" if target not in (predicted, name(None)) else ""
        parts.append(Weighted(caption, tokens, _strongest(tokens)))
    return Section("Which words decide", parts)


def _strongest(tokens: Sequence[tuple[str, float]]) -> str:
    ordered = sorted(tokens, key=lambda each: -abs(each[1]))[:STRONGEST]
    told = [f"\u201c{name(token)}\u201d {signed(weight)}" for token, weight in ordered if weight]
    return f"Strongest: {', '.join(told) or 'none'}."
