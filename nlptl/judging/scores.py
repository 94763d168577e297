"""The sections of a report on scores: beside baselines, of each class, of several runs, and as training went on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nlptl.evaluation.metrics import LOWER_IS_BETTER
from nlptl.judging import figures
from nlptl.judging.document import (
    MANY_ROWS,
    MOST_ROWS,
    Part,
    Section,
    Table,
    Tiles,
    Words,
    capital,
    count,
    cut,
    decimal,
    interval,
    metric_name,
    name,
    p_value,
    seconds,
    signed,
)
from nlptl.judging.run_files import RunFiles

THIS_RUN = "this run"
"""By which the row of a run is known among its baselines."""


def scores(run: RunFiles) -> Section:
    """Return the scores with their intervals, beside the baselines."""
    parts = [_against(run)] if figures.can_draw() and _rivals(run) else []
    return Section("Scores", [*parts, *score_tables(run)])


def score_tables(run: RunFiles) -> list[Part]:
    """Return all scores as tables."""
    of_split, baseline = run.scores[run.split], run.baseline
    metrics = [run.metric, *(key for key in of_split if key not in ("per_class", run.metric))]
    beside = [] if baseline is None else [baseline[0]]

    def rows(scores: Mapping[str, Any]) -> list[list[str]]:
        return [
            [metric_name(m), decimal(scores[m]["value"]), interval(scores[m]), count(scores[m]["n"])] for m in metrics
        ]

    on_split = rows(of_split)
    if baseline is not None:
        others = (decimal(baseline[1].get(metric, {}).get("value")) for metric in metrics)
        on_split = [[*row, other] for row, other in zip(on_split, others, strict=True)]
    columns = ("score", "value", "95 % interval", "texts", *beside)
    parts: list[Part] = [Table(f"Scores on {run.split}", columns, on_split)]
    parts += _baselines(run)
    parts += _per_class(run, of_split.get("per_class") or {})
    parts += _repeats(run)
    if run.split == "test" and "validation" in run.scores:
        caption = "Scores on validation, which chose the model"
        parts.append(Table(caption, columns[:4], rows(run.scores["validation"]), is_long=True))
    return parts


def _rivals(run: RunFiles) -> list[tuple[str, dict[str, Any]]]:
    """Return what the model is held against, and its score of the metric that matters most."""
    rows = [(row["name"], row["scores"].get(run.metric) or {}) for row in run.baselines.get("rows", [])]
    if not rows and run.baseline is not None:
        rows = [(run.baseline[0], run.baseline[1].get(run.metric) or {})]
    return [(rival, score) for rival, score in rows if score.get("value") is not None]


def _against(run: RunFiles) -> Part:
    score = run.scores[run.split][run.metric]
    rivals = [(THIS_RUN if THIS_RUN in rival else rival, of) for rival, of in _rivals(run)]
    is_among_them = THIS_RUN in [rival for rival, _ in rivals]
    rows = rivals if is_among_them else [(THIS_RUN, score), *rivals]
    drawn = [(rival, of["value"], of.get("low"), of.get("high")) for rival, of in rows if of["value"] is not None]
    caption = f"{capital(metric_name(run.metric))} on {run.split} with 95 % intervals"
    return figures.draw_intervals("scores", caption, drawn, reference=None)


def _baselines(run: RunFiles) -> Iterable[Part]:
    rows = run.baselines.get("rows")
    if not rows:
        return
    metrics = list(dict.fromkeys([run.metric, *(m for row in rows for m in row["scores"] if m != "per_class")]))[:3]
    shown = [metric_name(metric) for metric in metrics]
    yield Table(
        "Did transfer help? The scores of simpler methods on the same texts",
        ("", *shown, f"95 % interval of {shown[0]}", "training", "parameters trained"),
        [
            [
                name(row["name"]),
                *(decimal((row["scores"].get(m) or {}).get("value")) for m in metrics),
                interval(row["scores"].get(metrics[0]) or {}),
                seconds(row.get("train_seconds")),
                count(row.get("trainable_parameters")),
            ]
            for row in rows
        ],
        marked=frozenset(i for i, row in enumerate(rows) if THIS_RUN in row["name"]),
    )
    gain = run.baselines.get("gain")
    if gain:
        metric = metric_name(run.baselines.get("metric", run.metric))
        yield Words(
            f"The gain of {name(gain.get('row', THIS_RUN))} over {name(gain['over'])}: {signed(gain['difference'])} "
            f"{metric} (95 % interval {interval(gain)}, p {p_value(gain['p'])})."
        )


def _per_class(run: RunFiles, per_class: Mapping[str, Mapping[str, Any]]) -> Iterable[Part]:
    if not per_class:
        return
    metrics = list(next(iter(per_class.values())))
    kind = {"regression": "output", "tokens": "type of span", "multi_label": "label"}.get(run.task, "class")
    rows = []
    for label, row in list(per_class.items())[:MOST_ROWS]:
        last = row[metrics[-1]]
        rows.append([name(label), *(decimal(row[m]["value"]) for m in metrics), interval(last), count(last["n"])])
    columns = (kind, *map(metric_name, metrics), f"95 % interval of {metric_name(metrics[-1])}", "n")
    caption = f"Scores of each {kind}{cut(len(per_class))}"
    yield Table(caption, columns, rows, is_long=len(rows) > MANY_ROWS)


def repeats_verdict(run: RunFiles) -> Section:
    """Return what several runs give on average, where a folder holds them and no run of its own."""
    repeats, kind = run.repeats
    metric, found = metric_name(run.metric), repeats["summary"][run.metric]
    said = "95 % interval of the mean" if kind == "seed" else "lowest and highest"
    sentence = (
        f"Over {count(found['n'])} {kind}s, {metric} on test is {decimal(found['mean'])} on average ({said} "
        f"{interval(found)}; standard deviation {decimal(found['sd'])})."
    )
    tiles = [(f"{metric}, mean of {found['n']} {kind}s", decimal(found["mean"]), f"{said} {interval(found)}")]
    return Section("Verdict", [Words(sentence), Tiles(tiles)])


def repeats_scores(run: RunFiles) -> Section:
    """Return the scores of each of several runs."""
    repeats, kind = run.repeats
    rows = [
        (f"{kind} {each[kind]}", score["value"], score.get("low"), score.get("high"))
        for each in repeats["runs"]
        if (score := each["scores"].get(run.metric)) and score["value"] is not None
    ]
    parts: list[Part] = []
    if rows and figures.can_draw():
        caption = f"{capital(metric_name(run.metric))} on test with 95 % intervals; dashed: mean"
        mean = repeats["summary"][run.metric]["mean"]
        parts = [figures.draw_intervals("scores", caption, rows[:MANY_ROWS], reference=mean)]
    folders = ", ".join(name(f"{each['folder']}/report.html") for each in repeats["runs"][:MANY_ROWS])
    return Section("Scores", [*parts, *_repeats(run), Words(f"The reports of the runs: {folders}.")])


def _repeats(run: RunFiles) -> Iterable[Part]:
    repeats, kind = run.repeats
    if not repeats:
        return
    summary, runs = repeats["summary"], repeats["runs"]
    metrics = list(dict.fromkeys([*([run.metric] if run.metric in summary else []), *summary]))
    rows = [
        [str(each[kind]), *(decimal((each["scores"].get(m) or {}).get("value")) for m in metrics)]
        for each in runs[:MOST_ROWS]
    ]
    spread = [
        [what, *(decimal(summary[m][key]) for m in metrics)]
        for what, key in (("mean", "mean"), ("standard deviation", "sd"))
    ]
    fell = frozenset(i for i, each in enumerate(runs[:MOST_ROWS]) if each.get("collapsed"))
    yield Table(f"Scores by {kind}{cut(len(runs))}", (kind, *map(metric_name, metrics)), [*rows, *spread], marked=fell)
    if fell:
        which = ", ".join(str(runs[i][kind]) for i in sorted(fell))
        yield Words(f"These models predict the same for all texts: {kind} {which}.", is_warning=True)
    pooled = (repeats.get("pooled") or {}).get(run.metric)
    if pooled:
        yield Words(
            f"{capital(metric_name(run.metric))} over the texts of all folds: {decimal(pooled['value'])} "
            f"(95 % interval {interval(pooled)})."
        )


def curves(run: RunFiles) -> Section | None:
    """Return how training went."""
    wanted = f"validation_{run.chosen_by}"
    evaluations = [record for record in run.records if wanted in record]
    epochs = [record for record in run.records if "epoch" in record]  # others have the loss of a single step
    best = _best(evaluations, run.chosen_by)
    parts: list[Part] = []
    if figures.can_draw():
        loss = {
            "train": _line(epochs if len(epochs) > 1 else run.records, "loss"),
            "validation log loss": _line(evaluations, "validation_log_loss"),
        }
        score = {metric_name(run.chosen_by): _line(evaluations, wanted)}
        rate = {"learning rate": _line(run.records, "learning_rate")}
        for key, caption, lines in (
            ("loss", "Loss", loss),
            ("score", f"{capital(metric_name(run.chosen_by))} on validation", score),
            ("rate", "Learning rate", rate),
        ):
            drawn = {label: line for label, line in lines.items() if len(line[0]) > 1}
            if drawn:
                parts.append(figures.draw_line(key, caption, drawn, mark=None if key == "rate" else best))
    if evaluations and not parts:
        chosen = evaluations[-MOST_ROWS:]
        wishes = dict.fromkeys(["epoch", "loss", wanted, "validation_log_loss"])
        keys = [key for key in wishes if any(key in record for record in chosen)]
        rows = [[count(record["step"]), *(decimal(record.get(key)) for key in keys)] for record in chosen]
        marked = frozenset(i for i, record in enumerate(chosen) if record["step"] == best)
        caption = f"Evaluations on validation{cut(len(evaluations), 'last')}; the model of the marked step was kept"
        columns = ("step", *(metric_name(key) for key in keys))
        parts.append(Table(caption, columns, rows, marked=marked))
    return Section("Learning curves", parts) if parts else None


def _best(evaluations: Sequence[Mapping[str, Any]], metric: str) -> int | None:
    key, sign = f"validation_{metric}", -1 if metric in LOWER_IS_BETTER else 1
    known = [record for record in evaluations if record[key] is not None]
    return max(known, key=lambda record: sign * record[key])["step"] if known else None


def _line(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    known = [record for record in records if record.get(key) is not None]
    return [record["step"] for record in known], [record[key] for record in known]
