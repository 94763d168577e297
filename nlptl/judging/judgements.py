"""Report sections from analysis.json: calibration, decisions, confusion, slices, errors, probes, attributions."""

from collections.abc import Mapping, Sequence
from typing import Any

from nlptl.judging import document as doc
from nlptl.judging import figures
from nlptl.judging.run_files import RunFiles

FEW_SLICES = 8
MOST_SLICES = 30
MOST_DRAWN = 8
MOST_LETTERS = 120
MOST_TOKENS = 400
MOST_PAIRS = 10
STRONGEST = 5


def calibration(run: RunFiles) -> doc.Section | None:
    """Return how well calibrated the probabilities are, before and after calibration."""
    found = run.analysis.get("calibration")
    if not found:
        return None
    before, after, reliability = (found.get(key) or {} for key in ("before", "after", "reliability"))
    parts: list[doc.Part] = [doc.Words(calibrated(found))]
    for key in ("before", "after") if found.get("method", "none") != "none" else ("before",):
        if reliability.get(key) and figures.can_draw():
            caption = f"Reliability {key} calibration"
            parts.append(figures.draw_reliability(f"reliability-{key}", caption, reliability[key]))
    rows = [[doc.metric_name(key), doc.decimal(before[key]), doc.decimal(after.get(key))] for key in before]
    parts.append(doc.Table("Before and after calibration", ("score", "before", "after"), rows))
    return doc.Section("Calibration", parts)


def calibrated(found: Mapping[str, Any]) -> str:
    """Return a sentence on the calibration error, from the calibration in analysis.json."""
    before, after, method = found.get("before") or {}, found.get("after") or {}, found.get("method", "none")
    if method == "none" or not after:
        return f"Probabilities are not calibrated; their calibration error (ECE) is {doc.decimal(before.get('ece'))}."
    ways = {
        "temperature": "one temperature for all logits",
        "vector": "a scale and a shift for each class",
        "platt": "a logistic function for each label",
    }
    errors = f"from {doc.decimal(before.get('ece'))} to {doc.decimal(after.get('ece'))}"
    way = ways.get(method, method)
    return f"Probabilities are calibrated on validation by {way}: the calibration error (ECE) goes {errors}."


def decisions(run: RunFiles) -> doc.Section | None:
    """Return the decisions chosen after training: threshold, abstention, sets, scope, thresholds of labels."""
    parts: list[doc.Part] = [doc.Words(line) for line in decided(run)]
    if not run.is_recalibrated:
        parts += [doc.Words(f"On {run.split}: {doc.name(line)}.") for line in run.analysis.get("remarks") or []]
    if thresholds := run.model.get("thresholds"):
        labels = zip(run.model["labels"], thresholds, strict=True)
        rows = [[doc.name(label), doc.decimal(each)] for label, each in labels][: doc.MOST_ROWS]
        caption = f"Probability above which a label is predicted{doc.cut(len(thresholds))}"
        parts.append(doc.Table(caption, ("label", "threshold"), rows))
    return doc.Section("Decisions", parts) if parts else None


def decided(run: RunFiles) -> list[str]:
    """Return a sentence on each decision of the model, except thresholds of labels."""
    found, lines = run.model.get("decisions") or {}, []
    if found.get("threshold") is not None:
        label = doc.name(run.model["labels"][1])
        lines.append(f"{label} is predicted if its probability is {doc.decimal(found['threshold'])} or more.")
    if abstention := found.get("abstention"):
        line = f"Texts whose best label has a probability below {doc.decimal(abstention['below'])} get no label"
        if abstention.get("accuracy") is not None:
            share, accuracy = doc.percent(abstention["coverage"]), doc.percent(abstention["accuracy"])
            line += f"; {share} of the texts it was fitted on got one, and {accuracy} of these labels were right"
        lines.append(f"{line}.")
    if sets := found.get("sets"):
        lines.append(
            "Each prediction comes with a set of labels that contains the true one with probability "
            f"{doc.decimal(sets['coverage'])} (split conformal prediction, fitted on {doc.count(sets['n'])} texts)."
        )
    if scope := found.get("scope"):
        lines.append(
            "Texts unlike the training texts are labelled out of scope; "
            f"{doc.percent(scope['kept'])} of the texts it was fitted on were in scope."
        )
    return lines


def confusion(run: RunFiles) -> doc.Section | None:
    """Return which labels are predicted as which."""
    matrix, pairs = run.analysis.get("confusion"), run.analysis.get("confused") or []
    parts: list[doc.Part] = []
    if matrix:
        labels, counts = matrix["names"], matrix["counts"]
        if figures.can_draw() and len(labels) <= figures.MOST_CLASSES:
            caption = "Confusion matrix: labels in rows, predictions in columns"
            parts.append(figures.draw_confusion("confusion", caption, labels, counts))
        else:
            rows = [[doc.name(label), *map(doc.count, row)] for label, row in zip(labels, counts, strict=True)]
            columns = ("label \\ predicted", *map(doc.name, labels))
            parts.append(doc.Table("Counts of labels (rows) and predictions (columns)", columns, rows))
    if pairs:
        rows = [
            [doc.name(p["label"]), doc.name(p["predicted"]), doc.count(p["count"]), doc.percent(p["share"])]
            for p in pairs[:MOST_PAIRS]
        ]
        columns = ("label", "predicted", "texts", "share of the label")
        parts.append(doc.Table("Most frequent confusions", columns, rows, texts=2))
        if run.task in ("multi_label", "tokens"):
            parts.append(doc.Words("Label (none): predicted where nothing was missed. Predicted (none): missed."))
    return doc.Section("Confusion", parts) if parts else None


def slices(run: RunFiles) -> doc.Section | None:
    """Return on which slices of the texts the model is worse."""
    found = run.analysis.get("slices")
    if not found or not found.get("rows"):
        return None
    rows, metric = found["rows"], doc.metric_name(found["metric"])
    parts: list[doc.Part] = [doc.Words(_flags(found))]
    drawn = [
        (f"{row['column']}: {row['value']}", row["score"], row.get("low"), row.get("high"))
        for row in rows[:MOST_DRAWN]
        if row["score"] is not None
    ]
    if drawn and figures.can_draw():
        caption = f"{doc.capital(metric)} on slices; dashed: on all texts"
        parts.append(figures.draw_intervals("slices", caption, drawn, reference=found["overall"]))
    columns = ("slice", metric, "difference from the rest", "p", "texts", "95 % interval", "")
    shown = rows[: max(FEW_SLICES, sum(bool(row["flagged"]) for row in rows[:MOST_SLICES]))]
    cells = [
        [f"{doc.name(row['column'])}: {doc.name(row['value'])}", doc.decimal(row["score"])]
        + [doc.signed(row["difference"]), doc.p_value(row["p"]), doc.count(row["n"]), doc.interval(row)]
        + ["flagged" if row["flagged"] else ""]
        for row in shown
    ]
    marked = frozenset(i for i, row in enumerate(shown) if row["flagged"])
    parts.append(doc.Table("Slices, strongest evidence first", columns, cells, marked=marked))
    return doc.Section("Slices", parts)


def _flags(found: Mapping[str, Any]) -> str:
    flagged = sum(bool(row["flagged"]) for row in found["rows"])
    overall = f"On all texts, {doc.metric_name(found['metric'])} is {doc.decimal(found['overall'])}."
    tested = doc.count(found.get("tested", len(found["rows"])))
    if not flagged:
        return f"None of {tested} slices is flagged: the model is worse on none by more than chance. {overall}"
    is_worse = "is flagged: the model is worse on it" if flagged == 1 else "are flagged: the model is worse on them"
    return f"{flagged} of {tested} slices {is_worse} than on the rest. {overall}"


def errors(run: RunFiles) -> doc.Section | None:
    """Return the worst predictions."""
    found = run.analysis.get("errors") or {}
    parts: list[doc.Part] = []
    for key, caption in (("highest_loss", "Highest loss"), ("most_confident", "Most confident mistakes")):
        if found.get(key):
            quotes = [(_about(e), None if e.get("text") is None else doc.name(e["text"])) for e in found[key]]
            parts.append(doc.Quotes(caption, quotes))
    if parts and run.analysis.get("texts_shown") == "none":
        parts.insert(0, doc.Words("Texts are not shown; row numbers are those of the data set."))
    return doc.Section("Errors", parts) if parts else None


def _short(each: Mapping[str, Any], key: str) -> str:
    return doc.name(doc.shorten(str(each.get(key)), MOST_LETTERS))


def _about(each: Mapping[str, Any]) -> str:
    line = f"Row {each['row']}: {_short(each, 'label')} predicted as {_short(each, 'predicted')}"
    for key in ("probability", "loss"):
        line += f", {key} {doc.decimal(each[key])}" if each.get(key) is not None else ""
    return line


def probes(run: RunFiles) -> doc.Section | None:
    """Return the effect of small changes of the texts."""
    found = run.analysis.get("probes")
    if not found:
        return None
    ends = [{"low": each.get("difference_low"), "high": each.get("difference_high")} for each in found]
    rows = [
        [doc.name(each["name"]), doc.count(each["changed"]), doc.decimal(each["score"])]
        + [doc.signed(each["difference"]), doc.interval(of_difference), doc.percent(each["flipped"])]
        for each, of_difference in zip(found, ends, strict=True)
    ]
    metric = doc.metric_name((run.analysis.get("slices") or {}).get("metric", run.metric))
    columns = ("change", "changed texts", metric, "difference", "95 % interval", "changed predictions")
    return doc.Section("Robustness", [doc.Table("Effect of small changes of the texts", columns, rows)])


def attributions(run: RunFiles) -> doc.Section | None:
    """Return the weight of each word in some predictions."""
    found = run.analysis.get("attributions")
    if not found:
        return None
    parts: list[doc.Part] = [
        doc.Words("Words with a positive weight (blue) support the predicted label, others (orange) oppose it.")
    ]
    for each in found:
        tokens = [(str(token), float(weight)) for token, weight in each["tokens"][:MOST_TOKENS]]
        predicted, target = _short(each, "predicted"), _short(each, "target")
        caption = f"Row {each['row']}: {_short(each, 'label')} predicted as {predicted}"
        caption += f"; for or against {target}" if target not in (predicted, doc.name(None)) else ""
        parts.append(doc.Weighted(caption, tokens, _strongest(tokens)))
    return doc.Section("Which words decide", parts)


def _strongest(tokens: Sequence[tuple[str, float]]) -> str:
    ordered = sorted(tokens, key=lambda each: -abs(each[1]))[:STRONGEST]
    told = [f"\u201c{doc.name(token)}\u201d {doc.signed(weight)}" for token, weight in ordered if weight]
    return f"Strongest: {', '.join(told) or 'none'}."
