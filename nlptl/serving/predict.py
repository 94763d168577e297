"""Labels for new texts: `nlptl predict`."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlptl.data.sources import Examples, read_file, read_lines
from nlptl.data.writers import check_suffix, write_lines, write_table
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Labels and probabilities for new texts, from a model folder."""

    model_dir: str
    """The model/ folder of a run."""
    text: tuple[str, ...] = ()
    """One or more texts."""
    input: str | None = None
    """File with texts: CSV, TSV, JSON lines or Parquet; - reads one text per line from standard input."""
    text_column: str | None = None
    """Column with the text. None: found by name."""
    output: str = "-"
    """File for the predictions: CSV, TSV, JSON lines or Parquet; - writes JSON lines to standard output."""
    max_length: int | None = None
    """Tokens of a text that are read. None: as in training."""

    def __post_init__(self) -> None:
        if bool(self.text) == (self.input is not None):
            raise ConfigError("Expected --text or --input, found " + ("both." if self.text else "neither. Pass one."))


def predict(config: PredictConfig) -> None:
    """Predict the label of each text and write them in the order of the texts.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the input cannot be read.
    """
    if config.output != "-":
        check_suffix(config.output)
    examples = _read(config)
    model = Classifier.from_pretrained(config.model_dir, max_length=config.max_length)
    shares = model.predict_probabilities(examples.texts, progress="predicting")
    best = shares.argmax(dim=1).tolist()
    names = model.labels.names
    columns: dict[str, list[Any]] = {
        "row": examples.rows,
        "text": examples.texts,
        "label": [names[i] for i in best],
        "probability": shares.amax(dim=1).tolist(),
        **{f"probability_{name}": shares[:, i].tolist() for i, name in enumerate(names)},
    }
    if config.output == "-":
        write_lines(sys.stdout, columns, suffix=".jsonl")
    else:
        write_table(config.output, columns)
        logger.info("wrote %s predictions to %s", f"{len(examples):,}", config.output)


def _read(config: PredictConfig) -> Examples:
    if config.text:
        return Examples(list(config.text), [], list(range(1, len(config.text) + 1)))
    if config.input == "-":
        return read_lines(sys.stdin)
    return read_file(Path(str(config.input)), text_column=config.text_column, with_labels=False)
