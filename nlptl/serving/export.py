"""Export a trained model to ONNX, and measure what that changes: `nlptl export`."""

import logging
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nlptl.errors import ConfigError
from nlptl.evaluation.report import score_table
from nlptl.model.classifier import Classifier
from nlptl.model.onnx_runtime import FILES, PACKAGES, Engine, check_installed
from nlptl.serving.evaluate import LabelledData, read_labelled
from nlptl.tasks.regression import Regression
from nlptl.tasks.task import Task
from nlptl.values import Seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(LabelledData):
    """Write an ONNX file into a model folder, and compare its scores on labelled data with those of torch."""

    int8: bool = False
    """Round weights to 8 bits: a quarter of the memory, and faster on most CPUs, at some cost in accuracy."""
    seed: Seed = 0
    """Seeds the bootstrap."""


@dataclass(frozen=True)
class Cost:
    """How much another engine changes: different answers, the largest difference between logits, and seconds."""

    num_texts: int
    num_different: int
    largest_difference: float
    seconds: float
    seconds_of_torch: float


def export(config: ExportConfig) -> Cost:
    """Write the ONNX file of a model into its folder, and log what changes.

    Raises:
        ConfigError: If a flag cannot be obeyed, packages are missing, or the model reads texts in chunks.
        DataError: If the data cannot be read, or has a label that the model does not know.
        ResourceError: If the file cannot be written.
    """
    check_installed(*PACKAGES)
    if not Path(config.model_dir).is_dir():
        raise ConfigError(
            f"Expected a model folder, found none at {config.model_dir}. Pass the model/ folder of a run."
        )
    model = Classifier.from_pretrained(config.model_dir)
    examples = read_labelled(config, model)
    engine: Engine = "onnx-int8" if config.int8 else "onnx"
    path = Path(config.model_dir) / FILES[engine]
    model.export_onnx(path, int8=config.int8)
    engines: tuple[Engine, ...] = ("torch", engine)
    logits, seconds = [], []
    for each in engines:
        model.use_engine(each, config.model_dir)
        model.predict_logits(examples.texts[:1], examples.pairs[:1])  # the first call loads the engine
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
    took = f"{cost.seconds:.2f} s instead of {cost.seconds_of_torch:.2f} s"
    logger.info("\n%s, logits by at most %.2g; %s", which, cost.largest_difference, took)
    logger.info('wrote %s; try: nlptl predict %s --engine %s --text "..."', path, config.model_dir, engine)
    return cost


def count_different(task: Task, *logits: torch.Tensor, texts: Sequence[str]) -> int:
    """Return the number of texts with different predictions; 0 for numbers, which differ in their last digits."""
    if isinstance(task, Regression):
        return 0
    one, other = (task.columns(task.outputs(each), texts, texts, name="predicted")["predicted"] for each in logits)
    return sum(map(operator.ne, one, other))
