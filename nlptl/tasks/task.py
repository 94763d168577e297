"""The interface of the kinds of tasks: their targets, losses, calibration, scores and predictions."""

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

LOSS_SETTINGS = ("loss", "logit_adjustment", "sampling", "label_smoothing", "class_weights")
"""Settings of `TrainingConfig` that apply to some kinds of tasks only."""


@dataclass(frozen=True)
class Objective:
    """The training objective: the sum of example losses divided by the sum of example weights, over a global batch."""

    losses: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """From the logits and targets of a micro-batch, the weighted loss of each example [rows]."""
    weights: np.ndarray | None = None
    """Weight of each training example, float64 [examples]; None: 1."""


@dataclass(frozen=True)
class Task(ABC):
    """A kind of task, and the names of its outputs: of labels, of scores or of tags, in the order of the logits."""

    names: tuple[str, ...]
    calibration: Calibration = field(default=Calibration(), kw_only=True)
    """The transformation of logits before they become probabilities."""

    kind: ClassVar[TaskKind]
    problem_type: ClassVar[str | None]
    """Its name in transformers, by which pipelines handle a model."""
    baseline_name: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    """The LOSS_SETTINGS that apply."""
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
        """Return the task with the names that occur in the training split.

        Raises:
            DataError: If its targets are not of this kind, or fewer than two labels occur.
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
        """Return the targets of examples, which are the first dimension.

        Raises:
            DataError: If a target is unknown to the task.
        """

    @abstractmethod
    def objective(
        self, config: TrainingConfig, targets: np.ndarray, tokens: Tokens, *, binary_loss: BinaryLoss
    ) -> Objective:
        """Return the objective on the training split with these targets and tokens."""

    def batch_targets(self, targets: np.ndarray, tokens: Tokens, indices: np.ndarray) -> torch.Tensor:
        """Return the targets of some examples as a tensor whose first dimension is the examples."""
        return torch.from_numpy(targets[indices])

    def by_word(self, logits: torch.Tensor, tokens: Tokens, texts: Sequence[str]) -> torch.Tensor:
        """Return the logits [texts, names]; of a task on tokens, those of words [words, names]."""
        return logits

    def readable(self, texts: Sequence[str]) -> Sequence[str]:
        """Return new texts in the form of the training texts."""
        return texts

    @abstractmethod
    def outputs(self, logits: torch.Tensor) -> np.ndarray:
        """Return the calibrated probabilities, or the scores of a regression: float64 [texts, names]."""

    def uncalibrated(self) -> Self:
        """Return the task without calibration, but with its decisions: its outputs are those of the stock model."""
        return replace(self, calibration=Calibration())

    def untuned(self) -> Self:
        """Return the task without calibration and decisions."""
        return self.uncalibrated()

    def tuned(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with calibration, then decisions, fitted to held-out data; earlier ones are dropped."""
        return self.untuned().calibrated(targets, logits, config).decided(targets, logits, config)

    def calibrated(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with a calibration that is fitted to held-out data, unless the config has none."""
        if config.calibration == "none":
            return self
        return replace(self, calibration=self.fit_calibration(targets, logits.double().numpy(), config.calibration))

    def fit_calibration(self, targets: np.ndarray, logits: np.ndarray, choice: str) -> Calibration:
        """Return the calibration that fits held-out data; the identity for a kind without calibrations."""
        return Calibration()

    def decided(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with decisions, such as thresholds, chosen by its probabilities on held-out data."""
        return self

    def describe_calibration(self, targets: np.ndarray, logits: torch.Tensor) -> dict[str, Any] | None:
        """Return figures and reliability on a split before and after calibration; None without probabilities."""
        before, after = self.uncalibrated().outputs(logits), self.outputs(logits)
        return describe_calibration(self.flat(targets), before, after, calibration=self.calibration)

    def flat(self, targets: np.ndarray) -> np.ndarray:
        """Return targets with one row for each row of outputs."""
        return targets

    def remarks(self, targets: np.ndarray, logits: torch.Tensor) -> list[str]:
        """Return lines on the effect of calibration and decisions on a split."""
        return [*self._calibration_remarks(targets, logits), *self.decision_remarks(targets, logits)]

    def decision_remarks(self, targets: np.ndarray, logits: torch.Tensor) -> list[str]:
        """Return lines on the effect of the decisions on a split."""
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
        """Return the baseline that knows only the targets of train.

        Returns:
            The task, with thresholds if it needs some, and the outputs of every text, float64 [names].
        """

    def baseline(self, targets: np.ndarray, *, train_targets: np.ndarray, seed: int) -> Scores:
        """Return the scores of the baseline that knows only the targets of train."""
        task, output = self.untuned().constant(train_targets)
        outputs = np.broadcast_to(output, (len(self.flat(targets)), len(output)))  # a view: one row in memory
        return task.score(targets, outputs, seed=seed)

    @abstractmethod
    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return the columns of a table of predictions; the column of the predicted value is called `name`.

        `read` has the texts as `readable` returns them.
        """

    @abstractmethod
    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> Sequence[Any]:
        """Return a prediction for each text."""

    def answers(self, logits: torch.Tensor, read: Sequence[str], texts: Sequence[str]) -> Sequence[Any]:
        """Return the predictions for new texts, after decisions such as abstention."""
        return self.predictions(self.outputs(logits), read, texts)

    def answer_columns(self, logits: torch.Tensor, read: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        """Return the columns of a table of predictions for new texts, after decisions such as abstention."""
        return self.columns(self.outputs(logits), read, texts, name="label")

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return a warning if the predictions look degenerate (one class for all texts), else None."""
        return None

    def card(self) -> dict[str, Any]:
        """Return what is saved with the names, as JSON."""
        return {"calibration": {"method": self.calibration.method, **self.calibration.parameters}}

    @classmethod
    def from_card(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Self:
        """Return the task that was saved.

        Raises:
            KeyError: If a value is missing.
            ValueError: If a value is damaged.
        """
        return cls(names, calibration=cls.saved_calibration(names, values))

    @classmethod
    def saved_calibration(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Calibration:
        """Return the calibration that was saved; the identity for a model saved without one.

        Raises:
            ValueError: If it is damaged, or of another kind of task.
        """
        calibration = from_json(Calibration, values.get("calibration", {}))
        known = {"none", *cls.calibrations, *(["platt"] if cls.kind == "multi_label" else [])}
        if calibration.method not in known or len(calibration.scales) not in (0, len(names)):
            raise ValueError(f"{calibration} for {len(names)} {cls.kind} outputs")
        return calibration
