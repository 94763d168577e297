"""The sections of a report on how a model was trained, how good it is, and how it is used."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nlptl.evaluation.metrics import LOWER_IS_BETTER
from nlptl.judging import figures
from nlptl.judging.document import (
    NOTHING,
    Code,
    Part,
    Quotes,
    Section,
    Table,
    Tiles,
    Words,
    count,
    decimal,
    interval,
    name,
    names,
    p_value,
    percent,
    seconds,
    signed,
)
from nlptl.judging.glossary import COSTS, METRICS, TASKS, words
from nlptl.judging.run_files import SPLITS, RunFiles, differing

MOST_ROWS = 100
"""Rows of a table; its caption says how many there are in all."""
LEAKS = ("leak", "near_leak", "group_leak")
"""Kinds of findings that make scores doubtful."""
THIS_RUN = "this run"
"""By which the row of a run is known among its baselines."""
MUCH = 0.1
"""Share of the texts that are cut from which on a reader is warned."""
MANY_ROWS = 12
"""A table with more rows is folded up."""


def title(run: RunFiles) -> str:
    """Return the heading of a report."""
    return f"{name(run.settings.get('model', 'a model'))} on {name(run.settings.get('dataset', 'a data set'))}"


def verdict(run: RunFiles) -> Section:
    """Return what a reader who reads one paragraph should know."""
    metric, scores = run.metric, run.scores[run.split]
    score = scores[metric]
    baseline = run.baseline
    held_against = None if baseline is None else baseline[1].get(metric)
    tiles = [(f"{words(metric)} on {run.split}", decimal(score["value"]), f"95 % interval {interval(score)}")]
    if baseline is not None and held_against is not None:
        tiles.append((baseline[0], decimal(held_against["value"]), "what reading no text gives"))
    tiles.append(
        (
            f"texts in {run.split}",
            count(score["n"]),
            "used for scores alone" if run.split == "test" else "which chose the model",
        )
    )
    parts: list[Part] = [Words(verdict_sentence(run)), Tiles(tiles)]
    if run.split != "test":
        parts.append(
            Words(
                "There are no scores on test yet. On validation, which chose the model, they flatter.", is_warning=True
            )
        )
    parts += [Words(warning, is_warning=True) for warning in warnings(run)]
    return Section("Verdict", parts)


def verdict_sentence(run: RunFiles) -> str:
    """Return how good the model is, and whether that is more than reading no text gives."""
    metric, score = run.metric, run.scores[run.split][run.metric]
    what = f"On {count(score['n'])} {run.split} texts, {words(metric)} is {decimal(score['value'])}"
    sentence = f"{what} (95 % interval {interval(score)})"
    baseline = run.baseline
    value = None if baseline is None else baseline[1].get(metric, {}).get("value")
    if baseline is None or value is None or score["value"] is None:
        return f"{sentence}."
    sign = -1 if metric in LOWER_IS_BETTER else 1
    gain, worst = sign * (score["value"] - value), score["high" if sign < 0 else "low"]
    beside = f"the {baseline[0]} ({decimal(value)}), which reads no text"
    if gain <= 0:
        return f"{sentence}: no better than {beside}."
    if worst is None or sign * (worst - value) <= 0:
        return f"{sentence}: not clearly better than {beside}: the interval holds that score."
    return f"{sentence}: better by {decimal(gain)} than {beside}."


def warnings(run: RunFiles) -> list[str]:
    """Return what else a reader should know of before the model is used."""
    found = []
    if run.baselines.get("warning"):
        found.append(name(run.baselines["warning"]))
    slices = run.analysis.get("slices") or {}
    flagged = [row for row in slices.get("rows", []) if row["flagged"]]
    if flagged:
        worst = ", ".join(
            f"{name(row['column'])}: {name(row['value'])} ({words(slices['metric'])} {decimal(row['score'])}, "
            f"{count(row['n'])} texts)"
            for row in flagged[:3]
        )
        kinds = "1 slice of the texts" if len(flagged) == 1 else f"{len(flagged)} slices of the texts"
        found.append(f"It is worse on {kinds} than on the rest: {worst}.")
    leaks = [finding for finding in run.data.get("findings", []) if finding["kind"] in LEAKS]
    found += [f"{name(finding['message'])}. {finding['meaning']}" for finding in leaks]
    share = (run.data.get("truncation", {}).get(run.split) or {}).get("cut_texts") or 0.0
    if share >= MUCH:
        found.append(f"Of {percent(share)} of the {run.split} texts, the model reads a part alone: they are too long.")
    return found


def training(run: RunFiles) -> Section:
    """Return what was trained on what."""
    settings, manifest = run.settings, run.manifest
    labels = manifest.get("labels") or sorted({label for of in run.data.get("labels", {}).values() for label in of})
    truncation = run.data.get("truncation", {})
    rows = [
        ("encoder", name(settings.get("model", NOTHING))),
        ("data", name(settings.get("dataset", NOTHING))),
        ("task", f"{TASKS.get(run.task, run.task)} ({run.task})"),
        ("outputs" if run.task == "regression" else "labels", names(labels) if labels else NOTHING),
        ("texts", ", ".join(f"{count(run.sizes[split])} {split}" for split in SPLITS if split in run.sizes)),
        ("what trained", what_trained(manifest)),
        ("read of a text", reading(manifest)),
        (
            "texts cut",
            ", ".join(
                f"{percent(truncation[split]['cut_texts'])} of {split}" for split in SPLITS if split in truncation
            ),
        ),
        ("seed", str(settings.get("seed", manifest.get("seed", NOTHING)))),
    ]
    return Section("What was trained", [Table("Model and data", ("", ""), [row for row in rows if row[1]], texts=2)])


def what_trained(manifest: Mapping[str, Any]) -> str:
    """Return which parts of the model trained."""
    if not manifest:
        return NOTHING
    freeze, units = manifest.get("freeze"), ", ".join(map(str, manifest.get("hidden") or []))
    of_encoder = {
        "nothing": "the whole encoder trains",
        "encoder": "the encoder is frozen",
        "embeddings": "all of the encoder but its embeddings trains",
    }.get(str(freeze), f"all of the encoder but its lowest {freeze} layers trains")
    if manifest.get("lora_rank"):
        of_encoder = f"of the encoder, low-rank updates train (LoRA, rank {manifest['lora_rank']})"
    elif manifest.get("train_only"):
        of_encoder = f"of what is not frozen, the {manifest['train_only']} alone trains"
    hidden = f" with hidden layers of {units} units" if units else ""
    return f"a {manifest.get('head')} head{hidden}, {manifest.get('pooling')} pooling; {of_encoder}"


def reading(manifest: Mapping[str, Any]) -> str:
    """Return how much of a text is read."""
    ways = {
        "head": "its beginning",
        "tail": "its end",
        "head-tail": "its beginning and its end",
        "chunks": "at a time, in chunks",
    }
    length = manifest.get("max_length")
    way = ways.get(manifest.get("long_text", ""), "")
    return f"at most {length} tokens{way and f', {way}'}" if length else NOTHING


def scores(run: RunFiles) -> Section:
    """Return the scores with their intervals, beside the baselines."""
    parts = [_against(run)] if figures.can_draw() and _rivals(run) else []
    return Section("Scores", [*parts, *score_tables(run)])


def score_tables(run: RunFiles) -> list[Part]:
    """Return all scores as tables."""
    of_split, baseline = run.scores[run.split], run.baseline
    metrics = [run.metric, *(key for key in of_split if key not in ("per_class", run.metric))]
    beside = [] if baseline is None else [baseline[0]]
    rows = [
        [words(m), decimal(of_split[m]["value"]), interval(of_split[m]), count(of_split[m]["n"])]
        + ([] if baseline is None else [decimal(baseline[1].get(m, {}).get("value"))])
        for m in metrics
    ]
    columns = ("score", "value", "95 % interval", "texts", *beside)
    parts: list[Part] = [Table(f"Scores on {run.split}", columns, rows)]
    parts += _baselines(run)
    parts += _per_class(run, of_split.get("per_class") or {})
    parts += _repeats(run)
    if run.split == "test" and "validation" in run.scores:
        chosen = run.scores["validation"]
        rows = [[words(m), decimal(chosen[m]["value"]), interval(chosen[m]), count(chosen[m]["n"])] for m in metrics]
        caption = "Scores on validation, which chose the model"
        parts.append(Table(caption, columns[:4], rows, is_long=True))
    meanings = [[words(metric), METRICS[metric]] for metric in metrics if metric in METRICS]
    parts.append(Table("What the scores mean", ("score", "meaning"), meanings, texts=2, is_long=True))
    return parts


def _rivals(run: RunFiles) -> list[tuple[str, dict[str, Any]]]:
    """Return what the model is held against, and its score of the metric that matters most."""
    rows = [(row["name"], row["scores"].get(run.metric) or {}) for row in run.baselines.get("rows", [])]
    if not rows and run.baseline is not None:
        rows = [(run.baseline[0], run.baseline[1].get(run.metric) or {})]
    return [(rival, score) for rival, score in rows if score.get("value") is not None]


def _against(run: RunFiles) -> Part:
    score = run.scores[run.split][run.metric]
    rivals = _rivals(run)
    is_among_them = any(THIS_RUN in rival for rival, _ in rivals)
    rows = rivals if is_among_them else [("this model", score), *rivals]
    drawn = [(rival, of["value"], of.get("low"), of.get("high")) for rival, of in rows if of["value"] is not None]
    caption = f"{_capital(words(run.metric))} on {run.split} with 95 % intervals"
    return figures.draw_intervals("scores", caption, drawn, reference=None)


def _baselines(run: RunFiles) -> Iterable[Part]:
    rows = run.baselines.get("rows")
    if not rows:
        return
    metrics = list(dict.fromkeys([run.metric, *(m for row in rows for m in row["scores"] if m != "per_class")]))[:3]
    yield Table(
        "Did transfer help? What simpler ways reach on the same texts",
        ("", *(words(m) for m in metrics), f"95 % interval of {words(metrics[0])}", "training", "parameters trained"),
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
        metric = words(run.baselines.get("metric", run.metric))
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
    columns = (kind, *map(words, metrics), f"95 % interval of {words(metrics[-1])}", "n")
    caption = f"Scores of each {kind}{cut(len(per_class))}"
    yield Table(caption, columns, rows, is_long=len(rows) > MANY_ROWS)


def repeats_verdict(run: RunFiles) -> Section:
    """Return what several runs give on average, where a folder holds them and no run of its own."""
    repeats, kind = run.repeats
    metric, summary = run.metric, repeats["summary"]
    found = summary[metric]
    said = "95 % interval of the mean" if kind == "seed" else "lowest and highest"
    sentence = (
        f"Over {count(found['n'])} {kind}s, {words(metric)} on test is {decimal(found['mean'])} on average ({said} "
        f"{interval(found)}; standard deviation {decimal(found['sd'])})."
    )
    tiles = [(f"{words(metric)}, mean of {found['n']} {kind}s", decimal(found["mean"]), f"{said} {interval(found)}")]
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
        caption = f"{_capital(words(run.metric))} on test with 95 % intervals; dashed: mean"
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
    yield Table(f"Scores by {kind}{cut(len(runs))}", (kind, *map(words, metrics)), [*rows, *spread], marked=fell)
    if fell:
        which = ", ".join(str(runs[i][kind]) for i in sorted(fell))
        yield Words(f"One and the same is predicted for all texts by {kind} {which}.", is_warning=True)
    pooled = (repeats.get("pooled") or {}).get(run.metric)
    if pooled:
        yield Words(
            f"All texts of the folds scored at once: {words(run.metric)} {decimal(pooled['value'])} (95 % interval "
            f"{interval(pooled)})."
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
        score = {words(run.chosen_by): _line(evaluations, wanted)}
        rate = {"learning rate": _line(run.records, "learning_rate")}
        for key, caption, lines in (
            ("loss", "Loss", loss),
            ("score", f"{_capital(words(run.chosen_by))} on validation", score),
            ("rate", "Learning rate", rate),
        ):
            drawn = {label: line for label, line in lines.items() if len(line[0]) > 1}
            if drawn:
                parts.append(figures.draw_line(key, caption, drawn, mark=None if key == "rate" else best))
    if evaluations:
        chosen = evaluations[-MOST_ROWS:]
        wishes = dict.fromkeys(["epoch", "loss", wanted, "validation_log_loss"])
        keys = [key for key in wishes if any(key in record for record in chosen)]
        rows = [[count(record["step"]), *(decimal(record.get(key)) for key in keys)] for record in chosen]
        marked = frozenset(i for i, record in enumerate(chosen) if record["step"] == best)
        caption = f"Evaluations on validation{cut(len(evaluations), 'last')}; the model of the marked step was kept"
        columns = ("step", *(words(key) for key in keys))
        parts.append(Table(caption, columns, rows, marked=marked, is_long=True))
    return Section("Learning curves", parts) if parts else None


def _best(evaluations: Sequence[Mapping[str, Any]], metric: str) -> int | None:
    key, sign = f"validation_{metric}", -1 if metric in LOWER_IS_BETTER else 1
    known = [record for record in evaluations if record[key] is not None]
    return max(known, key=lambda record: sign * record[key])["step"] if known else None


def _line(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    known = [record for record in records if record.get(key) is not None]
    return [record["step"] for record in known], [record[key] for record in known]


def data(run: RunFiles) -> Section | None:
    """Return the counts of the labels and what the checks have found."""
    parts: list[Part] = []
    findings = run.data.get("findings", [])
    if "findings" in run.data:
        many = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
        what = f"The checks before training had {many}." if findings else "The checks before training found nothing."
        parts.append(Words(what))
    if findings:
        quotes = [
            (
                f"{finding['severity']}: {finding['kind'].replace('_', ' ')}, {count(finding['count'])}",
                "\n".join(filter(None, (name(finding["message"]), finding.get("meaning"), finding.get("action")))),
            )
            for finding in findings[:MOST_ROWS]
        ]
        parts.append(Quotes(f"Findings{cut(len(findings))}", quotes, is_long=len(findings) > 3))
    counts = {split: of for split, of in run.data.get("labels", {}).items() if of}
    labels = sorted({label for of in counts.values() for label in of})
    if labels:
        splits = [split for split in SPLITS if split in counts]
        rows = [
            [name(label), *(count(counts[split].get(label, 0)) for split in splits)] for label in labels[:MOST_ROWS]
        ]
        what = "Sentences that hold each tag" if run.task == "tokens" else "Texts with each label"
        parts.append(Table(f"{what}{cut(len(labels))}", ("label", *splits), rows, is_long=len(rows) > MANY_ROWS))
    return Section("Data", parts) if parts else None


def costs(run: RunFiles) -> Section | None:
    """Return what training and scoring took."""
    rows = [[COSTS[key], _cost(key, value)] for key, value in run.costs.items() if key in COSTS and value is not None]
    hardware = run.manifest.get("hardware", {})
    if not rows:
        return None
    machine = name(hardware.get("device_name") or f"{hardware.get('device')}, {hardware.get('cpus')} cores")
    return Section(
        "Costs", [Table("What it took", ("what", "how much"), [*rows, ["machine", machine]] if hardware else rows)]
    )


def _cost(key: str, value: float) -> str:
    if key.endswith("_bytes"):
        return f"{value / 1e6:,.0f} MB"
    if key.endswith("_seconds"):
        return seconds(value)
    return f"{value:,.0f}"


def settings(run: RunFiles) -> Section:
    """Return the settings, those that are not the default first, and what the numbers depend on besides."""
    special = differing(run.settings)
    others = {key: value for key, value in run.settings.items() if key not in special}
    parts: list[Part] = []
    if special:
        parts.append(Table("Settings that differ from the defaults", ("setting", "value"), pairs(special), texts=2))
    else:
        parts.append(Words("All settings are the defaults."))
    parts.append(Table("All other settings", ("setting", "value"), pairs(others), texts=2, is_long=True))
    return Section("Settings", parts)


def versions(run: RunFiles) -> Section | None:
    """Return versions, machine and hashes."""
    manifest = run.manifest
    if not manifest:
        return None
    rows = pairs(manifest.get("versions", {})) + pairs(manifest.get("hardware", {}))
    hashes = {key: value for key, value in manifest.items() if key.endswith("sha256") or key == "git_commit"}
    if run.data.get("data_sha256"):
        hashes["sha256 of the texts and labels of all splits"] = run.data["data_sha256"]
    told = {key.replace("_sha256", " sha256").replace("_", " "): value for key, value in hashes.items() if value}
    parts: list[Part] = [Table("Versions and machine", ("what", "which"), rows, texts=2, is_long=True)]
    parts.append(Table("Hashes", ("what", "hash"), pairs(told), texts=2, is_long=True))
    if manifest.get("command"):
        parts.append(Code("Command", shlex.join(map(str, manifest["command"]))))
    return Section("Versions", parts)


def use(run: RunFiles) -> Section:
    """Return how the model is used: the command, Python, and a pipeline."""
    return Section("How to use the model", how_to_use(run, str(run.folder / "model")))


def how_to_use(run: RunFiles, folder: str) -> list[Part]:
    """Return the code that uses the model in `folder`."""
    reads_pairs = run.settings.get("pair_column") is not None
    flags = "--input pairs.csv --pair-column COLUMN" if reads_pairs else '--text "..."'
    quoted = json.dumps(folder, ensure_ascii=False)
    one = '{"text": "...", "text_pair": "..."}' if reads_pairs else '"..."'
    asked = '["..."], ["..."]' if reads_pairs else '["..."]'
    kind = "token-classification" if run.task == "tokens" else "text-classification"
    limit = "" if run.task == "tokens" else f", truncation=True, max_length={run.manifest.get('max_length', 256)}"
    known = "" if run.manifest.get("pooling") == "native" else "import nlptl  # makes this head known to transformers\n"
    python = f"from nlptl import Classifier\n\nmodel = Classifier.from_pretrained({quoted})\nmodel.predict({asked})"
    pipeline = f'{known}from transformers import pipeline\n\npredict = pipeline("{kind}", {quoted}{limit})\n'
    return [
        Code("On the command line", f"nlptl predict {shlex.quote(folder)} {flags}"),
        Code("In Python", python),
        Code("As a pipeline of transformers", f"{pipeline}predict({one})"),
    ]


def pairs(values: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of a name and a value."""
    return [
        [key, name(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
        for key, value in values.items()
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def cut(total: int, which: str = "first") -> str:
    """Return what a caption says of a table that has not all rows."""
    return f" (the {which} {MOST_ROWS} of {total:,})" if total > MOST_ROWS else ""
