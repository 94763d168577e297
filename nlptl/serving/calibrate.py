"""Calibrate a trained model, and choose its decisions, on other labelled data: `nlptl calibrate`."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from nlptl.config import DecisionConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.folder import CARD, rewrite_card
from nlptl.serving.evaluate import LabelledData, read_labelled
from nlptl.tasks.decision_checks import check_decisions, fitted_on_few, unmet
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(DecisionConfig, LabelledData):
    """Calibrate a saved model, and choose its decisions, on labelled data; the weights stay as they are.

    Of a data set with several splits, it uses validation. nlptl.json of the model folder is written again: settings
    that you do not pass are removed from it. The coverage of label sets holds exactly only on data that nothing was
    chosen on before, and that serves the sets alone: pass --keep-calibration.
    """

    keep_calibration: bool = False
    """Keep the calibration, and fit only the requested decisions."""
    max_length: int | None = None
    """Tokens of a text that the model reads. None: as in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_calibration and self.calibration != "auto":
            raise ConfigError(
                f"Expected --calibration {self.calibration} or --keep-calibration, found both. Pass one of the two."
            )


def calibrate(config: CalibrateConfig) -> Task:
    """Fit calibration and decisions, write them into nlptl.json, and return the task that has them.

    Raises:
        ConfigError: If a flag cannot be obeyed, or the data cannot meet a request; nothing is written then.
        DataError: If the data cannot be read, or holds a label that the model does not know.
        UntrustedFileError: If the folder is damaged.
        ResourceError: If nlptl.json cannot be written.
    """
    folder = Path(config.model_dir).expanduser()
    if not (folder / CARD).is_file():
        raise ConfigError(
            f"Expected a folder with {CARD} on this machine, found none at {folder}. Pass the model/ folder of a run."
        )
    model = Classifier.from_pretrained(folder, max_length=config.max_length)
    if model.task.kind == "regression":
        raise ConfigError(
            f"Expected a model that gives probabilities, found the task {model.task.kind}. There is nothing to fit."
        )
    check_decisions(config, model.task, model.head)
    examples = read_labelled(config, model, split="validation")
    targets = model.task.targets(examples)
    logits = model.predict_logits(examples.texts, examples.pairs, progress="predicting")
    untuned = model.task.untuned()
    if config.keep_calibration:
        task = replace(untuned, calibration=model.task.calibration)
    else:
        task = untuned.calibrated(targets, logits, config)
    task = task.decided(targets, logits, config)
    for line in unmet(config, task):
        raise ConfigError(line)
    rewrite_card(folder, task)
    for remark in task.remarks(targets, logits):
        logger.info("on these %s texts: %s", f"{len(examples):,}", remark)
    if few := fitted_on_few(config, model.task if config.keep_calibration else untuned, task, num_texts=len(examples)):
        logger.warning(few)
    if dropped := _dropped(model.task, task):
        logger.info("removed, because it was not requested: %s", ", ".join(dropped))
    logger.info("wrote %s", folder / CARD)
    if (folder.parent / "scores.json").is_file():
        logger.info("to bring the report and the model card up to date, run nlptl report %s", folder.parent)
    return task


def _dropped(before: Task, after: Task) -> list[str]:
    """Return the names of the calibration and the decisions that only `before` has."""
    dropped = []
    if before.calibration.method != "none" and after.calibration.method == "none":
        dropped.append(f"calibration ({before.calibration.method})")
    if isinstance(before, SingleLabel) and isinstance(after, SingleLabel):
        old, new = vars(before.decisions), vars(after.decisions)
        dropped += [name for name in old if old[name] is not None and new[name] is None]
    return dropped
