"""A trained model for ONNX Runtime, and what that costs: `nlptl export`."""

import logging
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nlptl.config import Columns
from nlptl.errors import ConfigError
from nlptl.evaluation.report import score_table
from nlptl.model.classifier import Classifier
from nlptl.model.onnx_runtime import FILES, PACKAGES, Engine, check_installed
from nlptl.serving.evaluate import read_labelled
from nlptl.tasks.regression import Regression
from nlptl.tasks.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Columns):
    """An ONNX file of a model, in its folder, and its scores on labelled data beside those that torch gives."""

    model_dir: str
    """The model/ folder of a run."""
    dataset: str
    """A labelled file, all of which is scored; or a folder, sample or Hub id, of which the test split is."""
    int8: bool = False
    """Round weights to 8 bits: a quarter of the memory, and quicker on most CPUs, at some cost in accuracy."""
    split_seed: int = 0
    """Seeds what is set aside where the data has no such split: pass the --split-seed of the training."""
    seed: int = 0
    """Seeds the bootstrap."""


@dataclass(frozen=True)
class Cost:
    """What another engine gives on the same texts: how many answers differ, by how much logits do at most, seconds."""

    num_texts: int
    num_different: int
    largest_difference: float
    seconds: float
    seconds_of_torch: float


def export(config: ExportConfig) -> Cost:
    """Write the ONNX file of a model into its folder, and log what changes.

    Raises:
        ConfigError: If a flag cannot be obeyed, packages are missing, or the model reads texts in chunks.
        DataError: If the data cannot be read, or holds a label that the model does not know.
        ResourceError: If the file cannot be written.
    """
    check_installed(*PACKAGES)
    if not Path(config.model_dir).is_dir():
        raise ConfigError(
            f"Expected a model folder, found none at {config.model_dir}. Pass the model/ folder of a run."
        )
    model = Classifier.from_pretrained(config.model_dir)
    examples = read_labelled(
        config, model, dataset=config.dataset, model_dir=config.model_dir, split_seed=config.split_seed
    )
    engine: Engine = "onnx-int8" if config.int8 else "onnx"
    path = Path(config.model_dir) / FILES[engine]
    model.export_onnx(path, int8=config.int8)
    engines: tuple[Engine, ...] = ("torch", engine)
    logits, seconds = [], []
    for each in engines:
        model.use_engine(each, config.model_dir)
        model.predict_logits(examples.texts[:1], examples.pairs[:1])  # what is loaded when it is first used
        start = time.perf_counter()
        logits.append(model.predict_logits(examples.texts, examples.pairs, progress=f"predicting with {each}"))
        seconds.append(time.perf_counter() - start)
    targets = model.task.targets(examples)
    for each, found in zip(engines, logits, strict=True):
        scores = model.task.score(targets, model.task.outputs(found), seed=config.seed)
        logger.info("\n%s\n%s", each, score_table(scores, split=examples.split))
    largest = float(np.abs(logits[0].numpy() - logits[1].numpy()).max())
    num_different = count_different(model.task, *logits, texts=examples.texts)
    cost = Cost(len(examples), num_different, largest, seconds[1], seconds[0])
    which = f"{cost.num_different:,} of {cost.num_texts:,} answers differ"
    took = f"{cost.seconds:.2f} s in place of {cost.seconds_of_torch:.2f} s"
    logger.info("\n%s, logits by %.2g at most; %s", which, cost.largest_difference, took)
    logger.info('wrote %s; try: nlptl predict %s --engine %s --text "..."', path, config.model_dir, engine)
    return cost


def count_different(task: Task, *logits: torch.Tensor, texts: Sequence[str]) -> int:
    """Return of how many texts two engines predict something else; of scores, which differ in their last digits, 0."""
    if isinstance(task, Regression):
        return 0
    one, other = (task.columns(task.outputs(each), texts, texts, name="predicted")["predicted"] for each in logits)
    return sum(map(operator.ne, one, other))
