"""Labels for new texts: `nlptl predict`."""

import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlptl.config import Columns
from nlptl.data.columns import check_texts
from nlptl.data.sources import Examples, read_file, read_lines
from nlptl.data.writers import Column, check_output, write_lines, write_table
from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.decisions import OUT_OF_SCOPE
from nlptl.model.classifier import Classifier
from nlptl.model.onnx_runtime import Engine
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task

TEXTS_AT_ONCE = 50_000
"""Texts in memory at a time: enough that batches of texts of similar length have hardly any padding."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict labels and probabilities of new texts with a saved model."""

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
    separator: str | None = None
    """Character between the columns of a CSV or TSV file, such as ";". None: found by looking at the file."""
    header: bool = True
    """The first line of a CSV or TSV file names its columns. --no-header: columns are named 1, 2, 3, ..."""
    output: str = "-"
    """File for the predictions: CSV, TSV, JSON lines or Parquet, which replaces an existing one; - writes JSON lines to
    standard output."""
    max_length: int | None = None
    """Tokens of a text that the model reads. None: as in training."""
    engine: Engine = "torch"
    """torch, or ONNX Runtime with float32 (onnx) or 8-bit weights (onnx-int8), from the file that `nlptl export` has
    written."""
    abstain_below: float | None = None
    """Give no label if its probability is lower than this; 0: always give one. None: the threshold chosen with
    --target-accuracy, if there is one."""

    def __post_init__(self) -> None:
        if bool(self.text) == (self.input is not None):
            found = "both" if self.text else "neither"
            raise ConfigError(f"Expected --text or --input, found {found}. Pass one of the two.")
        if self.abstain_below is not None and not 0 <= self.abstain_below <= 1:
            raise ConfigError(f"Expected --abstain-below from 0 to 1, found {self.abstain_below}. Pass 0.8, or so.")
        for flag, column in (
            ("--text-column", self.text_column),
            ("--pair-column", self.pair_column),
            ("--separator", self.separator),
            ("--no-header", None if self.header else "it"),
        ):
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
    if config.abstain_below is not None:
        model.task = _abstaining(model.task, config.abstain_below)
    counts: Counter[str | None] = Counter()
    parts = _answers(model, examples, counts, has_words=has_words)
    if config.output == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # the encoding of JSON, whatever the terminal uses
        write_lines(sys.stdout, parts, suffix=".jsonl")
    else:
        write_table(config.output, parts)
    if isinstance(model.task, SingleLabel):
        _log_decisions(counts, model.task)
    if config.output != "-":
        logger.info("wrote %s predictions to %s", f"{len(examples):,}", config.output)


def _answers(
    model: Classifier, examples: Examples, counts: Counter[str | None], *, has_words: bool
) -> Iterator[dict[str, Column]]:
    """Yield the table of answers for some texts at a time, and count the predicted labels."""
    for start in range(0, max(len(examples), 1), TEXTS_AT_ONCE):  # without texts, the table has no rows
        part = examples.select(np.arange(start, min(start + TEXTS_AT_ONCE, len(examples))))
        read = part.texts if has_words else model.task.readable(part.texts)
        logits = model.predict_logits(read, part.pairs, progress=f"predicting, {start:,} of {len(examples):,} done")
        answers = model.task.answer_columns(logits, read, part.texts)
        if isinstance(model.task, SingleLabel):
            counts.update(answers["label"])
        pairs = {"pair": part.pairs} if model.reads_pairs else {}
        yield {"row": part.rows, "text": part.texts, **pairs, **answers}


def _abstaining(task: Task, below: float) -> Task:
    if not isinstance(task, SingleLabel):
        raise ConfigError(
            f"Expected --abstain-below for a model that gives each text one label, found the task {task.kind}. Leave "
            "it out."
        )
    return task.abstaining(below)


def _log_decisions(counts: Counter[str | None], task: SingleLabel) -> None:
    total = f"{counts.total():,}"
    if task.decisions.scope is not None:
        logger.info("%s of %s texts are out of scope", f"{counts[OUT_OF_SCOPE]:,}", total)
    if task.decisions.abstention is not None and task.decisions.abstention.below > 0:
        below = task.decisions.abstention.below
        logger.info("%s of %s texts get no label: probability below %.4g", f"{counts[None]:,}", total, below)


def check_pairs(model: Classifier, examples: Examples, model_dir: str) -> None:
    """Refuse single texts for a model that reads pairs, and pairs for one that does not.

    Raises:
        ConfigError: If the model and the examples do not fit.
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
            f"Expected an output file other than the input, found {config.output} for both, which would replace the "
            "texts. Pass another --output."
        )


def _read(config: PredictConfig) -> tuple[Examples, bool]:
    """Return the texts, and whether they were lists of words."""
    if config.text:
        rows = list(range(1, len(config.text) + 1))
        return Examples(check_texts(config.text, rows, where="--text"), [], rows), False
    if config.input == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):
            # Bytes that are not UTF-8 become lone surrogates, which are refused with their line number.
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        return read_lines(sys.stdin), False
    path = Path(str(config.input))
    columns = Columns(
        text_column=config.text_column,
        pair_column=config.pair_column,
        separator=config.separator,
        header=config.header,
    )
    try:
        return read_file(path, columns, with_labels=False), False
    except DataError as error:
        try:
            return read_file(path, columns, task="tokens", with_labels=False), True
        except (DataError, ConfigError):
            raise error from None
