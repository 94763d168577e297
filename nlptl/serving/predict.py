"""Labels for new texts: `nlptl predict`."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlptl.config import Columns
from nlptl.data.columns import check_texts
from nlptl.data.sources import Examples, read_file, read_lines
from nlptl.data.writers import check_output, write_lines, write_table
from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.decisions import OUT_OF_SCOPE
from nlptl.model.classifier import Classifier
from nlptl.model.onnx_runtime import Engine
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task

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
    """Column with the text, or a template that joins several, such as "{title}: {body}". None: found by name."""
    pair_column: str | None = None
    """Column with the second text of each example, for a model that reads pairs."""
    output: str = "-"
    """File for the predictions: CSV, TSV, JSON lines or Parquet; - writes JSON lines to standard output.
    A file that is there is replaced."""
    max_length: int | None = None
    """Tokens of a text that are read. None: as in training."""
    engine: Engine = "torch"
    """What computes: torch, or ONNX Runtime, in float32 (onnx) or with weights of 8 bits (onnx-int8), from the file
    that `nlptl export` has written."""
    abstain_below: float | None = None
    """Give no label where its probability is lower than this; 0: always give one. None: as it was chosen with
    --target-accuracy, or always."""

    def __post_init__(self) -> None:
        if bool(self.text) == (self.input is not None):
            found = "both" if self.text else "neither"
            raise ConfigError(f"Expected --text or --input, found {found}. Pass one of the two.")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise ConfigError(f"Expected --abstain-below from 0 to 1, found {self.abstain_below}. Pass 0.8, or so.")
        for flag, column in (("--text-column", self.text_column), ("--pair-column", self.pair_column)):
            if column is not None and self.input in (None, "-"):
                raise ConfigError(
                    f"Expected {flag} only with a file as --input, found {column!r} without a file. Leave it out."
                )


def predict(config: PredictConfig) -> None:
    """Predict the label of each text and write them in the order of the texts.

    Raises:
        ConfigError: If a flag cannot be obeyed.
        DataError: If the input cannot be read.
        ResourceError: If the output cannot be written.
    """
    if config.output != "-":
        check_output(config.output)
        _check_not_input(config)
    examples, has_words = _read(config)
    model = Classifier.from_pretrained(config.model_dir, max_length=config.max_length)
    model.use_engine(config.engine, config.model_dir)
    if has_words and not model.task.is_per_token:
        raise ConfigError(
            f"Expected texts as strings for a model of the task {model.task.kind}, found lists of words in "
            f"{config.input}. Pass the column that holds the texts as --text-column."
        )
    check_pairs(model, examples, config.model_dir)
    read = examples.texts if has_words else model.task.readable(examples.texts)
    task = model.task if config.abstain_below is None else _abstaining(model.task, config.abstain_below)
    logits = model.predict_logits(read, examples.pairs, progress="predicting")
    columns: dict[str, Sequence[Any] | np.ndarray] = {
        "row": examples.rows,
        "text": examples.texts,
        **({"pair": examples.pairs} if model.reads_pairs else {}),
        **task.answer_columns(logits, read, examples.texts),
    }
    if isinstance(task, SingleLabel):
        _log_decisions(columns["label"], task)
    if config.output == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as JSON is, whatever the terminal's is
        write_lines(sys.stdout, columns, suffix=".jsonl")
    else:
        write_table(config.output, columns)
        logger.info("wrote %s predictions to %s", f"{len(examples):,}", config.output)


def _abstaining(task: Task, below: float) -> Task:
    if not isinstance(task, SingleLabel):
        raise ConfigError(
            f"Expected --abstain-below for a model that gives each text one label, found the task {task.kind}. Leave "
            "it out."
        )
    return task.abstaining(below)


def _log_decisions(labels: Sequence[Any] | np.ndarray, task: SingleLabel) -> None:
    given, total = list(labels), f"{len(labels):,}"
    if task.decisions.scope is not None:
        logger.info("%s of %s texts are out of scope", f"{given.count(OUT_OF_SCOPE):,}", total)
    if task.decisions.abstention is not None and task.decisions.abstention.below > 0:
        below = task.decisions.abstention.below
        logger.info("%s of %s texts get no label: probability below %.4g", f"{given.count(None):,}", total, below)


def check_pairs(model: Classifier, examples: Examples, model_dir: str) -> None:
    """Refuse single texts for a model that reads pairs, and pairs for one that does not.

    Raises:
        ConfigError: If it is so.
    """
    if model.reads_pairs and not len(examples.pairs):
        raise ConfigError(
            f"Expected pairs of texts, which the model in {model_dir} was trained on, found single texts. Pass a file "
            "with two columns, and the one with the second texts as --pair-column."
        )
    if len(examples.pairs) and not model.reads_pairs:
        raise ConfigError(
            f"Expected single texts, which the model in {model_dir} was trained on, found pairs. Leave --pair-column "
            "out."
        )


def _check_not_input(config: PredictConfig) -> None:
    if config.input not in (None, "-") and os.path.realpath(str(config.input)) == os.path.realpath(config.output):
        raise ConfigError(
            f"Expected another file as output than the input, found {config.output} as both, which would replace the "
            "texts. Pass another --output."
        )


def _read(config: PredictConfig) -> tuple[Examples, bool]:
    """Return the texts, and whether they were lists of words."""
    if config.text:
        rows = list(range(1, len(config.text) + 1))
        return Examples(check_texts(config.text, rows, where="--text"), [], rows), False
    if config.input == "-":
        # Bytes that are not UTF-8 become halves of surrogate pairs, which are refused with their line.
        content = io.BytesIO(sys.stdin.buffer.read())
        lines = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        return read_lines(lines), False
    columns, path = Columns(text_column=config.text_column, pair_column=config.pair_column), Path(str(config.input))
    try:
        return read_file(path, columns, with_labels=False), False
    except DataError as error:
        try:
            return read_file(path, columns, task="tokens", with_labels=False), True
        except (DataError, ConfigError):
            raise error from None
