"""Score a trained model on labelled data: `nlptl evaluate`."""

import logging
from dataclasses import dataclass
from pathlib import Path

from nlptl.config import Columns, part_of
from nlptl.data.columns import describe_rows
from nlptl.data.sources import Examples, read_file
from nlptl.data.splits import load_splits
from nlptl.data.writers import check_output, write_json
from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.metrics import Scores
from nlptl.evaluation.report import class_table, score_table
from nlptl.labels import Labels
from nlptl.model.classifier import Classifier
from nlptl.model.onnx_runtime import Engine
from nlptl.serving.predict import check_pairs
from nlptl.tasks.single_label import SingleLabel
from nlptl.values import Seed
from nlptl.wording import list_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledData(Columns):
    """A saved model and labelled data for it."""

    model_dir: str
    """The model/ folder of a run."""
    dataset: str
    """A labelled file, which is used whole; or a folder, sample or Hub id, of which one split is used."""
    split_seed: Seed = 0
    """Seed of a split that has to be carved out: pass the --split-seed of the training."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LabelledData):
    """Score a saved model on labelled data, the test split if there are several, with 95 % intervals."""

    output: Path | None = None
    """JSON file for the scores; an existing one is replaced. None: only print the table."""
    max_length: int | None = None
    """Tokens of a text that the model reads. None: as in training."""
    engine: Engine = "torch"
    """torch, or ONNX Runtime with float32 (onnx) or 8-bit weights (onnx-int8), from the file that `nlptl export` has
    written."""
    seed: Seed = 0
    """Seeds the bootstrap."""


def evaluate(config: EvaluateConfig) -> Scores:
    """Score a trained model on labelled data and log the table.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the data cannot be read, or has a label that the model does not know.
        ResourceError: If the output cannot be written.
    """
    if config.output is not None:
        check_output(config.output, suffixes=(".json",))
    model = Classifier.from_pretrained(config.model_dir, max_length=config.max_length)
    model.use_engine(config.engine, config.model_dir)
    examples = read_labelled(config, model)
    targets = model.task.targets(examples)
    logits = model.predict_logits(examples.texts, examples.pairs, progress="predicting")
    outputs = model.task.outputs(logits)
    scores = model.task.score(targets, outputs, seed=config.seed)
    logger.info("\n%s", score_table(scores, split=examples.split))
    if scores.per_class:
        logger.info("\n%s", class_table(scores))
    if doubts := model.task.doubts(targets, outputs):
        logger.warning("%s: %s", examples.split, doubts)
    for remark in model.task.remarks(targets, logits):
        logger.info("%s: %s", examples.split, remark)
    if config.output is not None:
        write_json(config.output, {examples.split: scores.to_json()})
        logger.info("\nwrote the scores to %s", config.output)
    return scores


def read_labelled(config: LabelledData, model: Classifier, *, split: str = "test") -> Examples:
    """Return all of a file, or a split of another data set, with labels that the model knows.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the data cannot be read, or has a label that the model does not know.
    """
    task, columns, dataset = model.task.kind, part_of(Columns, config), config.dataset
    if Path(dataset).expanduser().is_file():
        if columns.group_column is not None:
            raise ConfigError(
                f"Expected no group column with {dataset}, all of which is read, found {columns.group_column!r}. "
                "Leave out --group-column."
            )
        examples = read_file(Path(dataset), columns, task=task, split=split)
    else:
        examples = load_splits(dataset, task=task, seed=config.split_seed, **vars(columns))[split]
    if isinstance(model.task, SingleLabel):
        _check_labels(examples, model.labels)
    check_pairs(model, examples, config.model_dir)
    return examples


def _check_labels(examples: Examples, labels: Labels) -> None:
    unknown = [row for row, name in zip(examples.rows, examples.labels, strict=True) if name not in labels.names]
    if unknown:
        first = examples.labels[examples.rows.index(unknown[0])]
        raise DataError(
            f"Expected only labels of the model ({list_names(labels.names)}) in {examples.source}, found others in "
            f"{describe_rows(unknown)}, the first of them {first!r}. Rename or delete these rows, or pass another "
            "--label-column."
        )
