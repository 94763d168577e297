"""Report sections about the run: verdict, model, data, costs, settings, and how to use the model."""

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from nlptl.evaluation.metrics import sign_of
from nlptl.judging import document as doc
from nlptl.judging.run_files import SPLITS, RunFiles, differing, public_name
from nlptl.model.readme import usage, usage_notes

TASKS = {
    "single_label": "one label for each text",
    "ordinal": "one label for each text, from ordered labels",
    "multi_label": "any number of labels for each text",
    "regression": "one or more numbers for each text",
    "tokens": "a tag for each word",
}
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "train_seconds": ("training", doc.seconds),
    "test_seconds": ("scoring the test split", doc.seconds),
    "test_texts_per_second": ("texts per second on test", "{:,.0f}".format),
    "peak_memory_bytes": ("peak memory", lambda value: f"{value / 1e6:,.0f} MB"),
    "parameters": ("parameters", "{:,.0f}".format),
    "trainable_parameters": ("trainable parameters", "{:,.0f}".format),
}
LEAKS = ("leak", "near_leak", "group_leak")
"""Kinds of findings that make scores doubtful."""
FEW = 0.01
"""Fraction of leaked held-out texts above which the report warns; fewer appear among the findings."""
MUCH = 0.1
"""Fraction of truncated texts above which the report warns."""
RECALIBRATED = (
    "The model was recalibrated after it was scored: probabilities and decisions on test are those from before."
)


def title(run: RunFiles) -> str:
    """Return the heading of a report."""
    return f"{_public(run, 'model', 'a model')} on {_public(run, 'dataset', 'a data set')}"


def _public(run: RunFiles, setting: str, default: str = "") -> str:
    return doc.name(public_name(str(run.settings.get(setting, default))))


def verdict(run: RunFiles) -> doc.Section:
    """Return the summary of a run: its main score, the baseline, and warnings."""
    score = run.scores[run.split][run.metric]
    what, use = f"{doc.metric_name(run.metric)} on {run.split}", "used only for scores"
    tiles = [(what, doc.decimal(score["value"]), f"95 % interval {doc.interval(score)}")]
    if run.baseline is not None and run.metric in run.baseline[1]:
        tiles.append((run.baseline[0], doc.decimal(run.baseline[1][run.metric]["value"]), "reads no text"))
    warned = warnings(run)
    if run.split != "test":
        use = "used to choose the model"
        warned.insert(0, "There are no scores on test yet. Scores on validation, which chose the model, are too good.")
    tiles.append((f"texts in {run.split}", doc.count(score["n"]), use))
    parts: list[doc.Part] = [doc.Words(verdict_sentence(run)), doc.Tiles(tiles)]
    gain = run.baselines.get("gain")
    if gain and not run.baselines.get("warning"):
        better = f"{doc.name(gain['row'])} is better than {doc.name(gain['over'])}"
        by = f"{doc.decimal(gain['difference'])} (95 % interval {doc.interval(gain)})"
        parts.append(doc.Words(f"Transfer helps: {better} by {by}."))
    return doc.Section("Verdict", [*parts, *(doc.Words(warning, is_warning=True) for warning in warned)])


def verdict_sentence(run: RunFiles) -> str:
    """Return the main score, and whether it is better than the baseline that reads no text."""
    metric, score = run.metric, run.scores[run.split][run.metric]
    sentence = f"On {doc.count(score['n'])} {run.split} texts, {doc.metric_name(metric)} is "
    sentence += f"{doc.decimal(score['value'])} (95 % interval {doc.interval(score)})"
    baseline = run.baseline
    value = None if baseline is None else baseline[1].get(metric, {}).get("value")
    if baseline is None or value is None or score["value"] is None:
        return f"{sentence}."
    sign = sign_of(metric)
    gain, worst = sign * (score["value"] - value), score["high" if sign < 0 else "low"]
    rival = f"the {baseline[0]} ({doc.decimal(value)}), which reads no text"
    if gain <= 0:
        return f"{sentence}: no better than {rival}."
    if worst is None or sign * (worst - value) <= 0:
        return f"{sentence}: not clearly better than {rival}: the interval contains that score."
    return f"{sentence}: better by {doc.decimal(gain)} than {rival}."


def warnings(run: RunFiles) -> list[str]:
    """Return warnings to read before using the model."""
    found = []
    if run.baselines.get("warning"):
        found.append(doc.name(doc.capital(run.baselines["warning"])))
    slices = run.analysis.get("slices") or {}
    flagged = [row for row in slices.get("rows", []) if row["flagged"]]
    if flagged:
        worst = ", ".join(
            f"{doc.name(row['column'])}: {doc.name(row['value'])} ({doc.metric_name(slices['metric'])} "
            f"{doc.decimal(row['score'])}, {doc.count(row['n'])} texts)"
            for row in flagged[:3]
        )
        many = "1 slice" if len(flagged) == 1 else f"{len(flagged)} slices"
        found.append(f"It is worse on {many} of the texts than on the rest: {worst}.")
    held_out = max(run.sizes.get("validation", 0), run.sizes.get("test", 0), 1)
    for finding in run.data.get("findings", []):
        share = finding["count"] / held_out
        if finding["kind"] in LEAKS and share >= FEW:
            found.append(f"{doc.name(finding['message'])} ({doc.percent(share)}). {finding['meaning']}")
    if run.is_recalibrated:
        found.append(RECALIBRATED)
    if run.cut_share >= MUCH:
        found.append(
            f"{doc.percent(run.cut_share)} of the {run.split} texts are too long: the model reads only a part."
        )
    return found


def training(run: RunFiles) -> doc.Section:
    """Return the table of the model, the data and what was trained."""
    manifest, cut = run.manifest, run.data.get("truncation", {})
    labels = manifest.get("labels") or sorted({label for of in run.data.get("labels", {}).values() for label in of})
    rows = [
        ("encoder", _public(run, "model", doc.NOTHING)),
        ("data", _public(run, "dataset", doc.NOTHING)),
        ("task", f"{TASKS.get(run.task, run.task)} ({run.task})"),
        ("input", "pairs of texts" if run.settings.get("pair_column") is not None else ""),
        ("outputs" if run.task == "regression" else "labels", doc.names(labels, most=50) if labels else doc.NOTHING),
        ("texts", ", ".join(f"{doc.count(run.sizes[split])} {split}" for split in SPLITS if split in run.sizes)),
        ("model", _trained_parts(manifest)),
        ("read of each text", reading(manifest)),
        ("truncated", ", ".join(f"{doc.percent(cut[s]['cut_texts'])} of {s}" for s in SPLITS if s in cut)),
        ("seed", str(run.settings.get("seed", manifest.get("seed", doc.NOTHING)))),
    ]
    table = doc.Table("Model and data", ("", ""), [row for row in rows if row[1]], texts=2)
    return doc.Section("What was trained", [table])


def _trained_parts(manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return doc.NOTHING
    freeze, units = str(manifest.get("freeze")), ", ".join(map(str, manifest.get("hidden") or []))
    encoder = {
        "nothing": "the whole encoder is trained",
        "encoder": "the encoder is frozen",
        "embeddings": "the encoder is trained except its embeddings",
    }.get(freeze, f"the encoder is trained except its lowest {freeze} layers")
    if manifest.get("lora_rank"):
        encoder = f"the encoder is trained by low-rank updates (LoRA, rank {manifest['lora_rank']})"
    elif manifest.get("train_only"):
        encoder = f"only the {manifest['train_only']} of the unfrozen layers are trained"
    hidden = f" with hidden layers of {units} units" if units else ""
    return f"a {manifest.get('head')} head{hidden}, {manifest.get('pooling')} pooling; {encoder}"


def reading(manifest: Mapping[str, Any]) -> str:
    """Return how much of each text the model reads."""
    ways = {"head": ", the beginning", "tail": ", the end", "head-tail": ", the beginning and the end"}
    ways["chunks"] = " in each chunk"
    length = manifest.get("max_length")
    return f"at most {length} tokens{ways.get(manifest.get('long_text', ''), '')}" if length else doc.NOTHING


def data(run: RunFiles) -> doc.Section | None:
    """Return the findings of the data checks and the counts of the labels; None if there are neither."""
    parts: list[doc.Part] = []
    findings = run.data.get("findings", [])
    if "findings" in run.data:
        parts.append(doc.Words(findings_sentence(run)))
    if findings:
        quotes = [
            (
                f"{finding['severity']}: {finding['kind'].replace('_', ' ')}, {doc.count(finding['count'])}",
                "\n".join(filter(None, (doc.name(finding["message"]), finding.get("meaning"), finding.get("action")))),
            )
            for finding in findings[: doc.MOST_ROWS]
        ]
        parts.append(doc.Quotes(f"Findings{doc.cut(len(findings))}", quotes))
    counts = {split: of for split, of in run.data.get("labels", {}).items() if of}
    labels = sorted({label for of in counts.values() for label in of})
    if labels:
        splits = [split for split in SPLITS if split in counts]
        shown = labels[: doc.MOST_ROWS]
        rows = [[doc.name(label), *(doc.count(counts[split].get(label, 0)) for split in splits)] for label in shown]
        what = "Sentences with each tag" if run.task == "tokens" else "Texts with each label"
        parts.append(doc.Table(f"{what}{doc.cut(len(labels))}", ("label", *splits), rows))
    return doc.Section("Data", parts) if parts else None


def findings_sentence(run: RunFiles) -> str:
    """Return how many problems the data checks found."""
    many = len(run.data.get("findings", []))
    return f"The data checks before training found {many or 'no'} problem{'' if many == 1 else 's'}."


def costs(run: RunFiles) -> doc.Section | None:
    """Return what training and scoring cost; None if it was not recorded."""
    costs = [(what, shown, run.costs.get(key)) for key, (what, shown) in COSTS.items()]
    rows = [(what, shown(value)) for what, shown, value in costs if value is not None]
    hardware = run.manifest.get("hardware", {})
    if rows and hardware:
        machine = hardware.get("device_name") or f"{hardware.get('device')}, {hardware.get('cpus')} cores"
        rows.append(("machine", doc.name(machine)))
    return doc.Section("Costs", [doc.Table("Time and memory", ("", "cost"), rows)]) if rows else None


def settings(run: RunFiles) -> doc.Section:
    """Return the settings that differ from the defaults."""
    return doc.Section("Settings", [settings_table(differing(run.settings))])


def settings_table(special: Mapping[str, Any]) -> doc.Part:
    """Return a table of settings, or a sentence if there are none."""
    if not special:
        return doc.Words("All settings are the defaults.")
    return doc.Table("Settings that differ from the defaults", ("setting", "value"), _pairs(special), texts=2)


def versions(run: RunFiles) -> doc.Section | None:
    """Return the versions, the machine and the command; None if there is no manifest."""
    manifest = run.manifest
    if not manifest:
        return None
    rows = _pairs(manifest.get("versions", {}) | manifest.get("hardware", {}))
    parts = [doc.Table("Versions and machine", ("name", "value"), rows, texts=2), *data_hash(run)]
    if manifest.get("command"):
        parts.append(doc.Code("Command", shlex.join(map(str, manifest["command"]))))
    return doc.Section("Versions", parts)


def data_hash(run: RunFiles) -> list[doc.Part]:
    """Return a sentence with the hash of the data, if the run recorded it."""
    sha256 = run.data.get("data_sha256")
    return [doc.Words(f"sha256 of the texts and labels of all splits: {doc.name(sha256)}.")] if sha256 else []


def use(run: RunFiles) -> doc.Section:
    """Return how to use the model: on the command line, in Python, and in a pipeline."""
    return doc.Section("How to use the model", how_to_use(run, str(run.folder / "model")))


def how_to_use(run: RunFiles, folder: str) -> list[doc.Part]:
    """Return notes on using the model in `folder`, and the code."""
    card = {
        "task": run.task,
        "pairs": run.settings.get("pair_column") is not None,
        "max_length": run.manifest.get("max_length", 256),
        "head": {"pooling": run.manifest.get("pooling")},
    }
    notes = usage_notes(run.model) if "task" in run.model else []
    return [*(doc.Words(note) for note in notes), *(doc.Code(*each) for each in usage(card | run.model, folder))]


def _pairs(values: Mapping[str, Any]) -> list[list[str]]:
    return [
        [key, doc.name(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
        for key, value in values.items()
    ]
