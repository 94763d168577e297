"""What kinds of tasks differ in: how targets are read, the loss of each example, scores, and what is predicted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch

from nlptl.config import BinaryLoss, DecisionConfig, SelectionMetric, TaskKind, TrainingConfig, from_json
from nlptl.data.sources import Examples
from nlptl.data.tokens import Tokens
from nlptl.evaluation.calibration import Calibration, calibration_figures, describe_calibration
from nlptl.evaluation.metrics import METRICS, Scorer, Scores
from nlptl.labels import Labels
from nlptl.values import check_fields


@dataclass(frozen=True)
class Objective:
    """What training makes small: the sum of the losses of a batch over the sum of what its examples weigh."""

    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """From logits and targets of a micro-batch, the loss of each example [rows], its weight multiplied in."""
    weights: np.ndarray | None = None
    """What each example of train weighs, float64 [examples]; None: 1."""


@dataclass(frozen=True)
class Task(ABC):
    """A kind of task, and the names of its outputs: of labels, of scores or of tags, in the order of the logits."""

    names: tuple[str, ...]
    calibration: Calibration = field(default=Calibration(), kw_only=True)
    """What is done to logits before they become probabilities."""

    kind: ClassVar[TaskKind]
    problem_type: ClassVar[str | None]
    """What transformers calls it, whose pipelines go by it."""
    baseline_name: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    """Settings of the loss in `TrainingConfig` that apply."""
    calibrations: ClassVar[tuple[str, ...]] = ()
    """Values of `DecisionConfig.calibration` that apply, besides "auto" and "none"."""
    choices: ClassVar[tuple[str, ...]] = ()
    """Other settings of `DecisionConfig` that apply."""
    threshold_metrics: ClassVar[tuple[str, ...]] = ()
    """Values of `DecisionConfig.threshold_metric` that apply."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    @abstractmethod
    def from_examples(cls, train: Examples) -> Self:
        """Return the task that a training split poses.

        Raises:
            DataError: If it is not of this kind.
        """

    @property
    def labels(self) -> Labels:
        """The names as labels."""
        return Labels(self.names)

    @property
    def metrics(self) -> tuple[SelectionMetric, ...]:
        """Scores that can choose the best model; the first one does by default."""
        return METRICS[self.kind]

    @property
    def is_per_token(self) -> bool:
        """Whether there are logits for each token, and not for each text."""
        return self.kind == "tokens"

    @abstractmethod
    def targets(self, examples: Examples) -> np.ndarray:
        """Return the targets of examples, the first dimension being theirs.

        Raises:
            DataError: If a target is unknown to the task.
        """

    @abstractmethod
    def objective(
        self, config: TrainingConfig, targets: np.ndarray, tokens: Tokens, *, binary_loss: BinaryLoss
    ) -> Objective:
        """Return what is minimized on the training split with these targets and tokens."""

    def batch_targets(self, targets: np.ndarray, tokens: Tokens, indices: np.ndarray) -> torch.Tensor:
        """Return the targets of some examples as a tensor whose first dimension is theirs."""
        return torch.from_numpy(targets[indices])

    def by_word(self, logits: torch.Tensor, tokens: Tokens, texts: Sequence[str]) -> torch.Tensor:
        """Return logits as they are; where there are some for each token, those of words [words, names]."""
        return logits

    def readable(self, texts: Sequence[str]) -> Sequence[str]:
        """Return new texts in the form that those of training have."""
        return texts

    @abstractmethod
    def outputs(self, logits: torch.Tensor) -> np.ndarray:
        """Return what is predicted, in float64: calibrated probabilities, or scores [texts, names]."""

    def uncalibrated(self) -> Self:
        """Return the task whose outputs are those of the stock model; what else was chosen stays."""
        return replace(self, calibration=Calibration())

    def untuned(self) -> Self:
        """Return the task without anything that was chosen on validation after another training."""
        return self.uncalibrated()

    def tuned(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with what is chosen on held-out data after training: calibration, then thresholds and others.

        What was chosen before is forgotten.
        """
        return self.untuned().calibrated(targets, logits, config).decided(targets, logits, config)

    def calibrated(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with a calibration that is fitted to targets and logits of held-out data."""
        return self

    def decided(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with what is chosen by its probabilities on held-out data, its calibration as it is."""
        return self

    def describe_calibration(self, targets: np.ndarray, logits: torch.Tensor) -> dict[str, Any] | None:
        """Return figures and reliability on a split before and after calibration; None where there is none to tell of.

        As `nlptl.evaluation.calibration.describe_calibration` does.
        """
        before, after = self.uncalibrated().outputs(logits), self.outputs(logits)
        return describe_calibration(self.flat(targets), before, after, calibration=self.calibration)

    def flat(self, targets: np.ndarray) -> np.ndarray:
        """Return targets with one row for each row of outputs."""
        return targets

    def remarks(self, targets: np.ndarray, logits: torch.Tensor) -> list[str]:
        """Return lines that say what calibration and decisions amount to on a split."""
        return [*self._calibration_remarks(targets, logits), *self.decision_remarks(targets, logits)]

    def decision_remarks(self, targets: np.ndarray, logits: torch.Tensor) -> list[str]:
        """Return lines that say what decisions amount to on a split; none where there are none."""
        return []

    def _calibration_remarks(self, targets: np.ndarray, logits: torch.Tensor) -> list[str]:
        if self.calibration.method == "none":
            return []
        flat = self.flat(targets)
        before, after = (calibration_figures(flat, task.outputs(logits)) for task in (self.uncalibrated(), self))
        figures = "; ".join(f"{name} {before[name]:.4f} -> {after[name]:.4f}" for name in before)
        temperature = self.calibration.temperature
        what = f"temperature {temperature:.4g}" if self.calibration.method == "temperature" else self.calibration.method
        return [f"calibration ({what}): {figures}"]

    @abstractmethod
    def scorer(self, targets: np.ndarray, outputs: np.ndarray) -> Scorer:
        """Return the scorer of outputs for targets."""

    def point_scores(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return the scores by name, without intervals."""
        return self.scorer(targets, outputs).points()

    def score(self, targets: np.ndarray, outputs: np.ndarray, *, seed: int) -> Scores:
        """Return the scores with 95 % intervals, also those of each class."""
        return self.scorer(targets, outputs).score(seed=seed)

    @abstractmethod
    def constant(self, train_targets: np.ndarray) -> tuple[Self, np.ndarray]:
        """Return the baseline that has read the targets of train and no text.

        Returns:
            The task, with thresholds if it needs some, and the outputs of every text, float64 [names].
        """

    def baseline(self, targets: np.ndarray, *, train_targets: np.ndarray, seed: int) -> Scores:
        """Return the scores of the baseline that has read the targets of train and no text."""
        task, output = self.untuned().constant(train_targets)
        outputs = np.broadcast_to(output, (len(self.flat(targets)), len(output)))  # a view: one row in memory
        return task.score(targets, outputs, seed=seed)

    @abstractmethod
    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return the columns of a table of predictions; the one with what is predicted is called `name`.

        `read` is what the model has read of each of the texts, as `readable` returns it.
        """

    @abstractmethod
    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> Sequence[Any]:
        """Return a prediction for each text."""

    def answers(self, logits: torch.Tensor, read: Sequence[str], texts: Sequence[str]) -> Sequence[Any]:
        """Return what is said of new texts: their predictions, or where it was so decided, none."""
        return self.predictions(self.outputs(logits), read, texts)

    def answer_columns(self, logits: torch.Tensor, read: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        """Return the columns of a table of what is said of new texts."""
        return self.columns(self.outputs(logits), read, texts, name="label")

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return what looks as if nothing was learned; None: nothing does."""
        return None

    def card(self) -> dict[str, Any]:
        """Return what has to be saved beside the names, as JSON."""
        return {"calibration": {"method": self.calibration.method, **self.calibration.parameters}}

    @classmethod
    def from_card(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Self:
        """Return the task that was saved.

        Raises:
            ValueError: If it is damaged.
        """
        return cls(names, calibration=cls.saved_calibration(names, values))

    @classmethod
    def saved_calibration(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Calibration:
        """Return the calibration that was saved; none, if the model was saved before there were any.

        Raises:
            ValueError: If it is damaged, or of another kind of task.
        """
        calibration = from_json(Calibration, values.get("calibration", {}))
        known = {"none", *cls.calibrations, *(["platt"] if cls.kind == "multi_label" else [])}
        if calibration.method not in known or len(calibration.scales) not in (0, len(names)):
            raise ValueError(f"{calibration} for {len(names)} {cls.kind} outputs")
        return calibration
