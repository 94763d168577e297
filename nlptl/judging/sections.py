"""The sections of a report on the run: its verdict, what was trained on what, costs, settings, and how it is used."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from nlptl.evaluation.metrics import LOWER_IS_BETTER
from nlptl.judging.document import (
    MANY_ROWS,
    MOST_ROWS,
    NOTHING,
    Code,
    Part,
    Quotes,
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
    names,
    percent,
    seconds,
)
from nlptl.judging.run_files import SPLITS, RunFiles, differing, public_name
from nlptl.model.readme import usage, usage_notes

TASKS = {
    "single_label": "one label for each text",
    "ordinal": "one label for each text, out of labels in an order",
    "multi_label": "any number of labels for each text",
    "regression": "a number, or several, for each text",
    "tokens": "a tag for each word",
}
COSTS = {
    "train_seconds": "training",
    "test_seconds": "scoring test",
    "test_texts_per_second": "texts per second on test",
    "peak_memory_bytes": "peak memory",
    "parameters": "parameters",
    "trainable_parameters": "parameters that trained",
}
LEAKS = ("leak", "near_leak", "group_leak")
"""Kinds of findings that make scores doubtful."""
FEW = 0.01
"""Share of the held-out texts that leak from which on a reader is warned; fewer stand among the findings."""
CALIBRATED_ANEW = (
    "The model was calibrated anew after it was scored: what is said here of probabilities and decisions on test is of "
    "before."
)
MUCH = 0.1
"""Share of the texts that are cut from which on a reader is warned."""


def title(run: RunFiles) -> str:
    """Return the heading of a report."""
    encoder, data = (
        str(run.settings.get(key, what)) for key, what in (("model", "a model"), ("dataset", "a data set"))
    )
    return f"{name(public_name(encoder))} on {name(public_name(data))}"


def verdict(run: RunFiles) -> Section:
    """Return what a reader who reads one paragraph should know."""
    metric, scores = run.metric, run.scores[run.split]
    score = scores[metric]
    baseline = run.baseline
    held_against = None if baseline is None else baseline[1].get(metric)
    tiles = [(f"{metric_name(metric)} on {run.split}", decimal(score["value"]), f"95 % interval {interval(score)}")]
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
    gain = run.baselines.get("gain")
    if gain and not run.baselines.get("warning"):
        parts.append(
            Words(
                f"Transfer helps: {name(gain['row'])} is better than {name(gain['over'])} by "
                f"{decimal(gain['difference'])} (95 % interval {interval(gain)})."
            )
        )
    parts += [Words(warning, is_warning=True) for warning in warnings(run)]
    return Section("Verdict", parts)


def verdict_sentence(run: RunFiles) -> str:
    """Return how good the model is, and whether that is more than reading no text gives."""
    metric, score = run.metric, run.scores[run.split][run.metric]
    what = f"On {count(score['n'])} {run.split} texts, {metric_name(metric)} is {decimal(score['value'])}"
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
        found.append(name(capital(run.baselines["warning"])))
    slices = run.analysis.get("slices") or {}
    flagged = [row for row in slices.get("rows", []) if row["flagged"]]
    if flagged:
        worst = ", ".join(
            f"{name(row['column'])}: {name(row['value'])} ({metric_name(slices['metric'])} {decimal(row['score'])}, "
            f"{count(row['n'])} texts)"
            for row in flagged[:3]
        )
        kinds = "1 slice of the texts" if len(flagged) == 1 else f"{len(flagged)} slices of the texts"
        found.append(f"It is worse on {kinds} than on the rest: {worst}.")
    held_out = max(run.sizes.get("validation", 0), run.sizes.get("test", 0), 1)
    for finding in run.data.get("findings", []):
        share = finding["count"] / held_out
        if finding["kind"] in LEAKS and share >= FEW:
            found.append(f"{name(finding['message'])} ({percent(share)}). {finding['meaning']}")
    if run.is_calibrated_anew:
        found.append(CALIBRATED_ANEW)
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
    """Return the settings that differ from the defaults; config.json has the others."""
    special = differing(run.settings)
    if not special:
        return Section("Settings", [Words("All settings are the defaults.")])
    caption = "Settings that differ from the defaults"
    return Section("Settings", [Table(caption, ("setting", "value"), pairs(special), texts=2)])


def versions(run: RunFiles) -> Section | None:
    """Return the versions, the machine and the command; manifest.json has the hashes."""
    manifest = run.manifest
    if not manifest:
        return None
    rows = pairs(manifest.get("versions", {}) | manifest.get("hardware", {}))
    parts: list[Part] = [Table("Versions and machine", ("name", "value"), rows, texts=2)]
    if run.data.get("data_sha256"):
        parts.append(Words(f"sha256 of the texts and labels of all splits: {name(run.data['data_sha256'])}."))
    if manifest.get("command"):
        parts.append(Code("Command", shlex.join(map(str, manifest["command"]))))
    return Section("Versions", parts)


def use(run: RunFiles) -> Section:
    """Return how to use the model: the command, Python, and a pipeline."""
    return Section("How to use the model", how_to_use(run, str(run.folder / "model")))


def how_to_use(run: RunFiles, folder: str) -> list[Part]:
    """Return what to know about using the model in `folder`, and the code."""
    card = {
        "task": run.task,
        "pairs": run.settings.get("pair_column") is not None,
        "max_length": run.manifest.get("max_length", 256),
        "head": {"pooling": run.manifest.get("pooling")},
    }
    notes = usage_notes(run.model) if "task" in run.model else []
    return [*(Words(note) for note in notes), *(Code(*each) for each in usage(card | run.model, folder))]


def pairs(values: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of a name and a value."""
    return [
        [key, name(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
        for key, value in values.items()
    ]
