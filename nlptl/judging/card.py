"""The model card of a run: README.md of its model folder, for readers who have the model but not the run."""

from nlptl.data.writers import write_text
from nlptl.judging import document as doc
from nlptl.judging import judgements, scores, sections
from nlptl.judging.markdown import to_markdown
from nlptl.judging.run_files import RunFiles, differing, hub_id, public_name
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
"""The Hub's name of a score, where it differs."""


def write_model_card(run: RunFiles) -> None:
    """Write the card into the model folder of a run.

    Raises:
        ResourceError: If it cannot be written.
    """
    write_text(run.folder / "model" / "README.md", model_card(run))


def model_card(run: RunFiles) -> str:
    """Return the model card of a run: what was trained, scores, limits, data, use, and settings."""
    encoder, data = (public_name(str(run.settings.get(key, ""))) for key in ("model", "dataset"))
    title = f"{run.task.replace('_', ' ').capitalize()}: {doc.name(encoder)}, trained on {doc.name(data)}"
    special = {key: value for key, value in differing(run.settings).items() if key not in ("model", "dataset")}
    versions = ", ".join(f"{key} {doc.name(value)}" for key, value in run.manifest.get("versions", {}).items())
    parts = [
        sections.training(run),
        doc.Section("Scores", _scores(run)),
        doc.Section("Limits", [doc.Words(line) for line in _limits(run)]),
        doc.Section("Data", [doc.Words(sections.findings_sentence(run)), *sections.data_hash(run)]),
        doc.Section("How to use it", sections.how_to_use(run, "path/to/this/folder")),
        doc.Section("How it was trained", [sections.settings_table(special), doc.Words(f"Versions: {versions}.")]),
    ]
    return readme(_metadata(run, doc.plain(title), data), to_markdown(title, parts))


def _metadata(run: RunFiles, title: str, data: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    on_hub = hub_id(str(run.settings.get("dataset", "")))
    kind = pipeline_of(run.task)
    known = {metric: score for metric, score in run.scores_of(run.split).items() if score["value"] is not None}
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=data,
            dataset_name=data,
            dataset_split=run.split,
            metric_type=HUB_METRICS.get(metric, metric),
            metric_name=doc.metric_name(metric),
            metric_value=round(score["value"], 4),
        )
        for metric, score in known.items()
    ]
    card = ModelCardData(
        model_name=title,
        library_name="transformers",
        pipeline_tag=kind,
        base_model=hub_id(str(run.settings.get("model", ""))),
        datasets=[on_hub] if on_hub else None,
        tags=["nlptl"],
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        eval_results=results,
    )
    return card.to_yaml()


def _scores(run: RunFiles) -> list[doc.Part]:
    calibration = run.analysis.get("calibration")
    told = [doc.Words(judgements.calibrated(calibration))] if calibration else []
    if run.is_recalibrated:
        told = [doc.Words(sections.RECALIBRATED)]
    return [doc.Words(sections.verdict_sentence(run)), *scores.score_tables(run), *told]


def _limits(run: RunFiles) -> list[str]:
    lines = [f"It reads {sections.reading(run.manifest)} of each text."]
    if 0 < run.cut_share < sections.MUCH:
        lines.append(f"{doc.percent(run.cut_share)} of the {run.split} texts are longer.")
    lines.append("The scores are for texts like those of the data. Score the model on your own texts before using it.")
    return lines + judgements.decided(run) + sections.warnings(run)
