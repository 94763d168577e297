"""Probabilities and decisions of a trained model, fitted to labelled data anew: `nlptl calibrate`."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from nlptl.config import Columns, DecisionConfig
from nlptl.errors import ConfigError
from nlptl.model.classifier import Classifier
from nlptl.model.folder import CARD, rewrite_card
from nlptl.serving.evaluate import read_labelled
from nlptl.tasks.decision_checks import check_decisions, fitted_on_few, unmet
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(DecisionConfig, Columns):
    """Fit what a model folder makes of its logits to labelled data; the weights stay as they are.

    Probabilities, thresholds, abstention, sets of labels and the scope are fitted to this data; what is not asked for
    is in the folder no longer. Data on which nothing was chosen before, neither in training nor in validation, is what
    the coverage of sets holds for; with --keep-calibration in earnest, since then the data serves the sets alone.
    """

    model_dir: str
    """The model/ folder of a run; its nlptl.json is written anew."""
    dataset: str
    """A labelled file, all of which is used; or a folder, sample or Hub id, of which the validation split is."""
    keep_calibration: bool = False
    """Leave the probabilities as they are, and fit only the decisions that are asked for."""
    max_length: int | None = None
    """Tokens of a text that are read. None: as in training."""
    split_seed: int = 0
    """Seeds what is set aside where the data has no such split: pass the --split-seed of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_calibration and self.calibration != "auto":
            raise ConfigError(
                f"Expected --calibration {self.calibration} or --keep-calibration, found both. Pass one of the two."
            )


def calibrate(config: CalibrateConfig) -> Task:
    """Fit calibration and decisions, write them into nlptl.json, and return the task that has them.

    Raises:
        ConfigError: If a flag cannot be obeyed, or the data cannot meet what is asked for; nothing is written then.
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
    examples = read_labelled(
        config,
        model,
        dataset=config.dataset,
        model_dir=config.model_dir,
        split_seed=config.split_seed,
        split="validation",
    )
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
        logger.info("not asked for, and no longer in use: %s", ", ".join(dropped))
    logger.info("wrote %s", folder / CARD)
    if (folder.parent / "scores.json").is_file():
        logger.info("report and model card tell of before: nlptl report %s writes them anew", folder.parent)
    return task


def _dropped(before: Task, after: Task) -> list[str]:
    """Return the names of what only `before` has."""
    dropped = []
    if before.calibration.method != "none" and after.calibration.method == "none":
        dropped.append(f"calibration ({before.calibration.method})")
    if isinstance(before, SingleLabel) and isinstance(after, SingleLabel):
        old, new = vars(before.decisions), vars(after.decisions)
        dropped += [name for name in old if old[name] is not None and new[name] is None]
    return dropped
