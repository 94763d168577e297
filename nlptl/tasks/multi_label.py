"""Each text has any number of labels; those whose probability reaches their threshold are predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch

from nlptl.config import BinaryLoss, DecisionConfig, TaskKind, TrainingConfig
from nlptl.data.sources import Examples
from nlptl.data.targets import check_targets, label_sets
from nlptl.data.tokens import Tokens
from nlptl.errors import ConfigError
from nlptl.evaluation import multi_label
from nlptl.evaluation.calibration import Calibration, fit_platt
from nlptl.evaluation.metrics import Scorer
from nlptl.evaluation.multi_label import tune_thresholds
from nlptl.labels import Labels
from nlptl.tasks.losses import binary_losses
from nlptl.tasks.task import Objective, Task
from nlptl.values import Range


@dataclass(frozen=True)
class LabelsPrediction:
    """The labels of a text whose probability reaches their threshold, and the probability of every label by name."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of labels for each text."""

    thresholds: tuple[Annotated[float, Range(0, 1)], ...] = ()
    """The smallest probability at which each label is predicted; empty: 0.5."""

    kind: ClassVar[TaskKind] = "multi_label"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    baseline_name: ClassVar[str] = "most frequent label"
    settings: ClassVar[tuple[str, ...]] = ("class_weights", "loss")
    choices: ClassVar[tuple[str, ...]] = ("threshold_metric",)
    threshold_metrics: ClassVar[tuple[str, ...]] = ("f1", "accuracy", "matthews")

    def __post_init__(self) -> None:
        super().__post_init__()
        Labels(self.names)
        if len(self.thresholds) not in (0, len(self.names)):
            raise ConfigError(
                f"Expected a threshold for each of {len(self.names)} labels, found {self.thresholds}. Correct them, or "
                "leave them out for 0.5."
            )

    @classmethod
    def from_examples(cls, train: Examples) -> Self:
        """Return the task with the labels that occur in `train`."""
        check_targets(train.labels, cls.kind, where=train.source)
        sets = label_sets(train.labels, cls.kind)
        return cls(Labels.from_names(label for labels in sets for label in labels).names)

    def targets(self, examples: Examples) -> np.ndarray:
        """Return 1 for each label that a text has, else 0: int64 [examples, labels]."""
        sets = label_sets(examples.labels, self.kind)
        targets = np.zeros((len(sets), len(self.names)), dtype=np.int64)
        rows = np.repeat(np.arange(len(sets)), [len(labels) for labels in sets])
        targets[rows, self.labels.ids([label for labels in sets for label in labels])] = 1
        return targets

    def objective(
        self, config: TrainingConfig, targets: np.ndarray, tokens: Tokens, *, binary_loss: BinaryLoss
    ) -> Objective:
        """Return the binary cross-entropy, the focal or the asymmetric loss, each the mean over labels."""
        weights = _label_weights(config, targets)
        gammas = {"cross_entropy": (0.0, 0.0, 0.0), "focal": (config.focal_gamma, config.focal_gamma, 0.0)}
        # Ridnik et al. 2021, section 3.1: gamma- 4, gamma+ 0 and a margin of 0.05.
        positive, negative, clip = gammas.get(config.loss, (0.0, 4.0, 0.05))

        def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return binary_losses(
                logits,
                labels.to(logits.dtype),
                gamma_positive=positive,
                gamma_negative=negative,
                clip=clip,
                label_weights=None if weights is None else torch.from_numpy(weights).to(logits),
            )

        return Objective(losses)

    def outputs(self, logits: torch.Tensor) -> np.ndarray:
        """Return the probability of each label, float64 [texts, labels]."""
        shares: np.ndarray = torch.from_numpy(self.calibration.apply(logits.double().numpy())).sigmoid().numpy()
        return shares

    def untuned(self) -> Self:
        """Return the task without calibration, with thresholds of 0.5."""
        return replace(super().untuned(), thresholds=())

    def fit_calibration(self, targets: np.ndarray, logits: np.ndarray, choice: str) -> Calibration:
        """Return a scale and an offset for each label (Platt 1999)."""
        return fit_platt(targets, logits)

    def decided(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with the threshold of each label that gives the best F1, or another score."""
        thresholds = tune_thresholds(targets, self.outputs(logits), metric=config.threshold_metric or "f1")
        return replace(self, thresholds=tuple(thresholds.tolist()))

    def scorer(self, targets: np.ndarray, outputs: np.ndarray) -> Scorer:
        """Return the scorer of average precision, F1 in three averages and others."""
        return multi_label.scorer(targets, outputs, predicted=outputs >= self._thresholds(), names=self.names)

    def constant(self, train_targets: np.ndarray) -> tuple[Self, np.ndarray]:
        """Return the task that predicts the most frequent label of train, and the share of each label in train."""
        shares = train_targets.mean(axis=0)
        thresholds = np.where(np.arange(len(shares)) == shares.argmax(), shares, 1.0)
        return replace(self, thresholds=tuple(thresholds.tolist())), shares

    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return the labels, and the probability of each label."""
        return {
            name if name == "predicted" else "labels": self._chosen(outputs),
            **{f"probability_{label}": outputs[:, i] for i, label in enumerate(self.names)},
        }

    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> list[LabelsPrediction]:
        """Return the labels of each text, with the probabilities of all."""
        return [
            LabelsPrediction(tuple(labels), dict(zip(self.names, row, strict=True)))
            for labels, row in zip(self._chosen(outputs), outputs.tolist(), strict=True)
        ]

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return a warning if every text gets the same labels, but the targets differ."""
        chosen = outputs >= self._thresholds()
        if (chosen == chosen[:1]).all() and (targets != targets[:1]).any():
            labels = ", ".join(map(repr, self._chosen(outputs)[0])) or "no label"
            return (
                f"every text gets {labels}: the model has not learned to tell the labels apart; train for more steps "
                "or at another --learning-rate"
            )
        return None

    def card(self) -> dict[str, Any]:
        """Return calibration and thresholds."""
        return {**super().card(), "thresholds": self._thresholds().tolist()}

    @classmethod
    def from_card(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Self:
        """Return the task with the calibration and the thresholds that were saved."""
        thresholds = tuple(map(float, values["thresholds"]))
        return cls(names, thresholds, calibration=cls.saved_calibration(names, values))

    def _thresholds(self) -> np.ndarray:
        return np.array(self.thresholds or [0.5] * len(self.names))

    def _chosen(self, outputs: np.ndarray) -> list[list[str]]:
        is_chosen = outputs >= self._thresholds()
        return [[self.names[i] for i in np.flatnonzero(row)] for row in is_chosen]


def _label_weights(config: TrainingConfig, targets: np.ndarray) -> np.ndarray | None:
    """Return the weight of each label in the loss; "balanced": inversely proportional to its frequency. None: 1."""
    if config.class_weights != "balanced":
        return None if config.class_weights is None else np.array(config.class_weights)
    counts = np.maximum(targets.sum(axis=0), 1)
    return np.asarray(counts.sum() / (len(counts) * counts))
