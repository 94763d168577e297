"""How good a trained model is on labelled data: `nlptl evaluate`."""

import logging
from dataclasses import dataclass
from pathlib import Path

from nlptl.config import Columns, columns_of
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
from nlptl.wording import list_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Columns):
    """Scores with 95 % intervals of a model folder on labelled data."""

    model_dir: str
    """The model/ folder of a run."""
    dataset: str
    """A labelled file, all of which is scored; or a folder, sample or Hub id, of which the test split is."""
    output: Path | None = None
    """JSON file for the scores; one that is there is replaced. None: the table alone."""
    max_length: int | None = None
    """Tokens of a text that are read. None: as in training."""
    engine: Engine = "torch"
    """What computes: torch, or ONNX Runtime, in float32 (onnx) or with weights of 8 bits (onnx-int8), from the file
    that `nlptl export` has written."""
    split_seed: int = 0
    """Seeds what is set aside where the data has no such split: pass the --split-seed of the training."""
    seed: int = 0
    """Seeds the bootstrap."""


def evaluate(config: EvaluateConfig) -> Scores:
    """Score a trained model on labelled data and log the table.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the data cannot be read, or holds a label that the model does not know.
        ResourceError: If the output cannot be written.
    """
    if config.output is not None:
        check_output(config.output, suffixes=(".json",))
    model = Classifier.from_pretrained(config.model_dir, max_length=config.max_length)
    model.use_engine(config.engine, config.model_dir)
    examples = read_labelled(
        config, model, dataset=config.dataset, model_dir=config.model_dir, split_seed=config.split_seed
    )
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


def read_labelled(
    columns: Columns, model: Classifier, *, dataset: str, model_dir: str, split_seed: int, split: str = "test"
) -> Examples:
    """Return all of a file, or a split of another data set, labelled as the model knows it.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the data cannot be read, or holds a label that the model does not know.
    """
    task, columns = model.task.kind, columns_of(columns)
    if Path(dataset).expanduser().is_file():
        if columns.group_column is not None:
            raise ConfigError(
                f"Expected no group column with {dataset}, all of which is read, found {columns.group_column!r}. "
                "Leave out --group-column."
            )
        examples = read_file(Path(dataset), columns, task=task, split=split)
    else:
        examples = load_splits(dataset, task=task, seed=split_seed, **vars(columns))[split]
    if isinstance(model.task, SingleLabel):
        _check_labels(examples, model.labels)
    check_pairs(model, examples, model_dir)
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
