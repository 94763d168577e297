"""Report sections on scores: beside baselines, by class, over several runs, and during training."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nlptl.evaluation.metrics import sign_of
from nlptl.judging import document as doc
from nlptl.judging import figures
from nlptl.judging.run_files import RunFiles

THIS_RUN = "this run"
"""Marks the row of the run among its baselines."""
MOST_RUNS = 12
"""Runs drawn and linked in the report of several."""


def scores(run: RunFiles) -> doc.Section:
    """Return the scores with their intervals, beside the baselines."""
    drawn = _drawn(run) if figures.can_draw() else []
    caption = f"{doc.capital(doc.metric_name(run.metric))} on {run.split} with 95 % intervals"
    parts = [figures.draw_intervals("scores", caption, drawn, reference=None)] if len(drawn) > 1 else []
    return doc.Section("Scores", [*parts, *score_tables(run)])


def score_tables(run: RunFiles) -> list[doc.Part]:
    """Return the tables of all scores."""
    of_split, baseline = run.scores[run.split], run.baseline
    metrics = [run.metric, *(key for key in of_split if key not in ("per_class", run.metric))]

    def rows(found: Mapping[str, Any]) -> list[list[str]]:
        return [
            [doc.metric_name(m), doc.decimal(found[m]["value"]), doc.interval(found[m]), doc.count(found[m]["n"])]
            for m in metrics
            if m in found  # some scores of a single row are undefined
        ]

    columns, on_split = ("score", "value", "95 % interval", "texts"), rows(of_split)
    beside: tuple[str, ...] = ()
    if baseline is not None:
        beside, others = (baseline[0],), (baseline[1].get(metric, {}).get("value") for metric in metrics)
        on_split = [[*row, doc.decimal(other)] for row, other in zip(on_split, others, strict=True)]
    parts: list[doc.Part] = [doc.Table(f"Scores on {run.split}", (*columns, *beside), on_split)]
    parts += [*_baselines(run), *_per_class(run, of_split.get("per_class") or {}), *_repeats(run)]
    if run.split == "test" and "validation" in run.scores:
        caption = "Scores on validation, which chose the model"
        parts.append(doc.Table(caption, columns, rows(run.scores["validation"])))
    return parts


def _drawn(run: RunFiles) -> list[tuple[str, float, float | None, float | None]]:
    """Return the name, main score and interval of this run and of each baseline."""
    rows = [(row["name"], row["scores"].get(run.metric) or {}) for row in run.baselines.get("rows", [])]
    if not rows and run.baseline is not None:
        rows = [(run.baseline[0], run.baseline[1].get(run.metric) or {})]
    rows = [(THIS_RUN if THIS_RUN in rival else rival, of) for rival, of in rows]
    if THIS_RUN not in dict(rows):
        rows.insert(0, (THIS_RUN, run.scores[run.split][run.metric]))
    return [(rival, of["value"], of.get("low"), of.get("high")) for rival, of in rows if of.get("value") is not None]


def _baselines(run: RunFiles) -> Iterable[doc.Part]:
    rows = run.baselines.get("rows")
    if not rows:
        return
    metrics = list(dict.fromkeys([run.metric, *(m for row in rows for m in row["scores"] if m != "per_class")]))[:3]
    shown = [doc.metric_name(metric) for metric in metrics]
    caption = "Did transfer help? Scores of simpler methods on the same texts"
    columns = ("", *shown, f"95 % interval of {shown[0]}", "training", "trainable parameters")
    cells = [
        [doc.name(row["name"]), *(doc.decimal((row["scores"].get(m) or {}).get("value")) for m in metrics)]
        + [doc.interval(row["scores"].get(metrics[0]) or {}), doc.seconds(row.get("train_seconds"))]
        + [doc.count(row.get("trainable_parameters"))]
        for row in rows
    ]
    marked = frozenset(i for i, row in enumerate(rows) if THIS_RUN in row["name"])
    yield doc.Table(caption, columns, cells, marked=marked)
    if gain := run.baselines.get("gain"):
        metric = doc.metric_name(run.baselines.get("metric", run.metric))
        pair = f"{doc.name(gain.get('row', THIS_RUN))} over {doc.name(gain['over'])}"
        tested = f"(95 % interval {doc.interval(gain)}, p {doc.p_value(gain['p'])})"
        yield doc.Words(f"The gain of {pair}: {doc.signed(gain['difference'])} {metric} {tested}.")


def _per_class(run: RunFiles, per_class: Mapping[str, Mapping[str, Any]]) -> Iterable[doc.Part]:
    if not per_class:
        return
    *_, last = metrics = list(next(iter(per_class.values())))
    kind = {"regression": "output", "tokens": "span type", "multi_label": "label"}.get(run.task, "class")
    rows = [
        [doc.name(label), *(doc.decimal(row[m]["value"]) for m in metrics), doc.interval(row[last])]
        + [doc.count(row[last]["n"])]
        for label, row in list(per_class.items())[: doc.MOST_ROWS]
    ]
    columns = (kind, *map(doc.metric_name, metrics), f"95 % interval of {doc.metric_name(last)}", "n")
    yield doc.Table(f"Scores of each {kind}{doc.cut(len(per_class))}", columns, rows)


def repeats_verdict(run: RunFiles) -> doc.Section:
    """Return the mean score of several runs, for a folder that holds no run of its own."""
    repeats, kind = run.repeats
    metric, found = doc.metric_name(run.metric), repeats["summary"][run.metric]
    said = f"{'95 % interval of the mean' if kind == 'seed' else 'lowest and highest'} {doc.interval(found)}"
    mean = doc.decimal(found["mean"])
    sentence = f"Over {doc.count(found['n'])} {kind}s, {metric} on test is {mean} on average ({said}; "
    parts: list[doc.Part] = [
        doc.Words(f"{sentence}standard deviation {doc.decimal(found['sd'])})."),
        doc.Tiles([(f"{metric}, mean of {found['n']} {kind}s", mean, said)]),
    ]
    return doc.Section("Verdict", parts)


def repeats_scores(run: RunFiles) -> doc.Section:
    """Return the scores of each of several runs."""
    repeats, kind = run.repeats
    rows = [
        (f"{kind} {each[kind]}", score["value"], score.get("low"), score.get("high"))
        for each in repeats["runs"]
        if (score := each["scores"].get(run.metric)) and score["value"] is not None
    ]
    parts: list[doc.Part] = []
    if rows and figures.can_draw():
        caption = f"{doc.capital(doc.metric_name(run.metric))} on test with 95 % intervals; dashed: mean"
        mean = repeats["summary"][run.metric]["mean"]
        parts.append(figures.draw_intervals("scores", caption, rows[:MOST_RUNS], reference=mean))
    folders = ", ".join(doc.name(f"{each['folder']}/report.html") for each in repeats["runs"][:MOST_RUNS])
    return doc.Section("Scores", [*parts, *_repeats(run), doc.Words(f"The reports of the runs: {folders}.")])


def _repeats(run: RunFiles) -> Iterable[doc.Part]:
    repeats, kind = run.repeats
    if not repeats:
        return
    summary, runs = repeats["summary"], repeats["runs"][: doc.MOST_ROWS]
    metrics = list(dict.fromkeys([*([run.metric] if run.metric in summary else []), *summary]))
    rows = [
        [str(each[kind]), *(doc.decimal((each["scores"].get(m) or {}).get("value")) for m in metrics)] for each in runs
    ]
    spread = [
        [what, *(doc.decimal(summary[m][key]) for m in metrics)]
        for what, key in (("mean", "mean"), ("standard deviation", "sd"))
    ]
    collapsed = frozenset(i for i, each in enumerate(runs) if each.get("collapsed"))
    caption, columns = f"Scores by {kind}{doc.cut(len(repeats['runs']))}", (kind, *map(doc.metric_name, metrics))
    yield doc.Table(caption, columns, [*rows, *spread], marked=collapsed)
    if collapsed:
        which = ", ".join(str(runs[i][kind]) for i in sorted(collapsed))
        yield doc.Words(f"These models predict the same for all texts: {kind} {which}.", is_warning=True)
    if pooled := (repeats.get("pooled") or {}).get(run.metric):
        said = f"{doc.decimal(pooled['value'])} (95 % interval {doc.interval(pooled)})"
        yield doc.Words(f"{doc.capital(doc.metric_name(run.metric))} over the texts of all folds: {said}.")


def curves(run: RunFiles) -> doc.Section | None:
    """Return the loss, the score and the learning rate during training; None without records."""
    wanted, chosen_by = f"validation_{run.chosen_by}", doc.metric_name(run.chosen_by)
    evaluations = [record for record in run.records if wanted in record]
    epochs = [record for record in run.records if "epoch" in record]  # other records have the loss of a single step
    known = [record for record in evaluations if record[wanted] is not None]
    best = max(known, key=lambda record: sign_of(run.chosen_by) * record[wanted])["step"] if known else None
    parts: list[doc.Part] = []
    if figures.can_draw():
        loss = {
            "train": _line(epochs if len(epochs) > 1 else run.records, "loss"),
            "validation log loss": _line(evaluations, "validation_log_loss"),
        }
        for key, caption, lines in (
            ("loss", "Loss", loss),
            ("score", f"{doc.capital(chosen_by)} on validation", {chosen_by: _line(evaluations, wanted)}),
            ("rate", "Learning rate", {"learning rate": _line(run.records, "learning_rate")}),
        ):
            drawn = {label: line for label, line in lines.items() if len(line[0]) > 1}
            if drawn:
                parts.append(figures.draw_line(key, caption, drawn, mark=None if key == "rate" else best))
    if evaluations and not parts:
        shown = evaluations[-doc.MOST_ROWS :]
        wishes = dict.fromkeys(["epoch", "loss", wanted, "validation_log_loss"])
        keys = [key for key in wishes if any(key in record for record in shown)]
        rows = [[doc.count(record["step"]), *(doc.decimal(record.get(key)) for key in keys)] for record in shown]
        marked = frozenset(i for i, record in enumerate(shown) if record["step"] == best)
        caption = f"Evaluations on validation{doc.cut(len(evaluations), 'last')}; the model of the marked step was kept"
        parts.append(doc.Table(caption, ("step", *map(doc.metric_name, keys)), rows, marked=marked))
    return doc.Section("Learning curves", parts) if parts else None


def _line(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    known = [record for record in records if record.get(key) is not None]
    return [record["step"] for record in known], [record[key] for record in known]
