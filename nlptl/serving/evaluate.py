"""How good a trained model is on labelled data: `nlptl evaluate`."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from nlptl.data.sources import Examples, read_file
from nlptl.data.splits import load_splits
from nlptl.evaluation.metrics import Scores, score_predictions
from nlptl.evaluation.report import class_table, score_table
from nlptl.model.classifier import Classifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores with 95 % intervals of a model folder on labelled data."""

    model_dir: str
    """The model/ folder of a run."""
    dataset: str
    """A labelled file, all of which is scored; or a folder, sample or Hub id, of which the test split is."""
    text_column: str | None = None
    """Column with the text. None: found by name."""
    label_column: str | None = None
    """Column with the label. None: found by name."""
    output: Path | None = None
    """JSON file for the scores. None: the table alone."""
    max_length: int | None = None
    """Tokens of a text that are read. None: as in training."""
    seed: int = 0
    """Seeds the bootstrap, and the split where the data has no test split."""


def evaluate(config: EvaluateConfig) -> Scores:
    """Score a trained model on labelled data and log the table.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the data cannot be read, or holds a label that the model does not know.
    """
    examples = _read(config)
    model = Classifier.from_pretrained(config.model_dir, max_length=config.max_length)
    labels = model.labels.ids(examples.labels)
    shares = model.predict_probabilities(examples.texts, progress="predicting").numpy()
    scores = score_predictions(labels, shares, names=model.labels.names, seed=config.seed)
    logger.info("\n%s\n\n%s", score_table(scores, split=examples.split), class_table(scores))
    if config.output is not None:
        config.output.write_text(json.dumps({examples.split: scores.to_json()}, indent=2) + "\n", encoding="utf-8")
    return scores


def _read(config: EvaluateConfig) -> Examples:
    if Path(config.dataset).is_file():
        return read_file(
            Path(config.dataset), text_column=config.text_column, label_column=config.label_column, split="test"
        )
    splits = load_splits(
        config.dataset, text_column=config.text_column, label_column=config.label_column, seed=config.seed
    )
    return splits.test
