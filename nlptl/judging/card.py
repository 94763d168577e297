"""The model card of a run: README.md of its model folder, for whoever finds the model without the run."""

from nlptl.data.writers import write_text
from nlptl.judging import judgements, scores, sections
from nlptl.judging.document import Part, Section, Table, Words, count, metric_name, name, names, percent, plain
from nlptl.judging.markdown import to_markdown
from nlptl.judging.run_files import SPLITS, RunFiles, differing, hub_id, public_name
from nlptl.model.readme import pipeline_of, readme

HUB_METRICS = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "weighted_f1": "f1",
    "samples_f1": "f1",
    "span_f1": "f1",
    "span_precision": "precision",
    "span_recall": "recall",
    "token_accuracy": "accuracy",
    "subset_accuracy": "accuracy",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "r2": "r_squared",
}
"""What the Hub calls a score, where that is another name."""

MOST_LABELS = 50


def write_model_card(run: RunFiles) -> None:
    """Write the card into the model folder of a run.

    Raises:
        ResourceError: If it cannot be written.
    """
    write_text(run.folder / "model" / "README.md", model_card(run))


def model_card(run: RunFiles) -> str:
    """Return the model card of a run, with its scores, limits and data."""
    parts = [
        Section("What it is", _what_it_is(run)),
        Section("Scores", _scores(run)),
        Section("Limits", [Words(line) for line in _limits(run)]),
        Section("Data", [Words(line) for line in _data(run)]),
        Section("How to use it", sections.how_to_use(run, "path/to/this/folder")),
        Section("How it was trained", _training(run)),
    ]
    return readme(_metadata(run), to_markdown(_title(run), parts))


def _metadata(run: RunFiles) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    encoder, data = str(run.settings.get("model", "")), _data_name(run)
    on_hub = hub_id(str(run.settings.get("dataset", "")))
    kind = pipeline_of(run.task)
    known = {m: s for m, s in run.scores[run.split].items() if m != "per_class" and s["value"] is not None}
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=data,
            dataset_name=data,
            dataset_split=run.split,
            metric_type=HUB_METRICS.get(metric, metric),
            metric_name=metric_name(metric),
            metric_value=round(score["value"], 4),
        )
        for metric, score in known.items()
    ]
    card = ModelCardData(
        model_name=plain(_title(run)),
        library_name="transformers",
        pipeline_tag=kind,
        base_model=hub_id(encoder),
        datasets=[on_hub] if on_hub else None,
        tags=["nlptl"],
        metrics=list(dict.fromkeys(HUB_METRICS.get(metric, metric) for metric in known)),
        eval_results=results,
    )
    return card.to_yaml()


def _title(run: RunFiles) -> str:
    kind = run.task.replace("_", " ").capitalize()
    return f"{kind}: {name(public_name(str(run.settings.get('model', ''))))}, trained on {name(_data_name(run))}"


def _what_it_is(run: RunFiles) -> list[Part]:
    labels, trained = run.manifest.get("labels") or [], sections.what_trained(run.manifest)
    parts: list[Part] = [Words(f"A text classifier: {trained}. It gives {sections.TASKS.get(run.task, run.task)}.")]
    if labels:
        kind = "Outputs" if run.task == "regression" else "Labels"
        parts.append(Words(f"{kind}: {names(labels, most=MOST_LABELS)}."))
    if run.settings.get("pair_column") is not None:
        parts.append(Words("It reads two texts at once."))
    return parts


def _scores(run: RunFiles) -> list[Part]:
    calibration = run.analysis.get("calibration")
    told = [Words(judgements.calibrated(calibration))] if calibration else []
    if run.is_calibrated_anew:
        told = [Words(sections.CALIBRATED_ANEW)]
    return [Words(sections.verdict_sentence(run)), *scores.score_tables(run), *told]


def _limits(run: RunFiles) -> list[str]:
    cut = (run.data.get("truncation", {}).get(run.split) or {}).get("cut_texts")
    lines = [f"Of a text, it reads {sections.reading(run.manifest)}."]
    if cut is not None and cut < sections.MUCH:
        lines.append(f"Of {percent(cut)} of the {run.split} texts, a part was not read.")
    lines.append("The scores hold for texts like those of the data; score it on others before it is used for them.")
    return lines + judgements.decided(run) + sections.warnings(run)


def _data(run: RunFiles) -> list[str]:
    sizes = ", ".join(f"{count(run.sizes[split])} {split}" for split in SPLITS if split in run.sizes)
    lines = [f"{name(_data_name(run))}{f': {sizes} texts' if sizes else ''}."]
    if run.data.get("data_sha256"):
        lines.append(f"sha256 of the texts and labels of all splits: {name(run.data['data_sha256'])}.")
    found = len(run.data.get("findings", []))
    return [*lines, f"The checks of the data had {found or 'no'} finding{'' if found == 1 else 's'}."]


def _training(run: RunFiles) -> list[Part]:
    special = {key: value for key, value in differing(run.settings).items() if key not in ("model", "dataset")}
    caption = "Settings that differ from the defaults"
    parts: list[Part] = [Table(caption, ("setting", "value"), sections.pairs(special), texts=2)]
    if not special:
        parts = [Words("With the default settings of nlptl.")]
    versions = run.manifest.get("versions", {})
    return [*parts, Words(f"Versions: {', '.join(f'{key} {name(value)}' for key, value in versions.items())}.")]


def _data_name(run: RunFiles) -> str:
    return public_name(str(run.settings.get("dataset", "")))
