"""Each text has one label out of two or more.

A classifier always gives one logit per label. In the sigmoid form of a binary head the first logit is held at zero:
softmax over (0, z) is the sigmoid of z, so that probabilities, saved models and pipelines are as in the softmax form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from nlptl.config import BinaryLoss, ClassWeights, TaskKind, TrainingConfig
from nlptl.data.sources import Examples
from nlptl.data.tokens import Tokens
from nlptl.evaluation.metrics import Scores, majority_scores, point_scores, score_predictions
from nlptl.labels import Labels
from nlptl.tasks.losses import adjust_logits, focal_losses
from nlptl.tasks.task import Objective, Task


@dataclass(frozen=True)
class Prediction:
    """The most probable label of a text, its probability, and the probability of every label by name."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class SingleLabel(Task):
    """One label for each text."""

    kind: ClassVar[TaskKind] = "single_label"
    problem_type: ClassVar[str | None] = "single_label_classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "weighted_f1", "matthews", "log_loss")
    baseline_name: ClassVar[str] = "majority baseline"
    settings: ClassVar[tuple[str, ...]] = (
        *("label_smoothing", "class_weights", "r_drop", "loss", "logit_adjustment", "sampling"),
    )

    def __post_init__(self) -> None:
        Labels(self.names)  # which refuses fewer than two, and two that are the same

    @classmethod
    def from_examples(cls, train: Examples) -> Self:
        """Return the task with the labels that occur in `train`.

        Raises:
            DataError: If fewer than two do.
        """
        return cls(Labels.from_names(train.labels).names)

    def targets(self, examples: Examples) -> np.ndarray:
        """Return the label ids, int64 [examples].

        Raises:
            DataError: If a label is unknown.
        """
        return self.labels.ids(examples.labels)

    def objective(
        self, config: TrainingConfig, targets: np.ndarray, tokens: Tokens, *, binary_loss: BinaryLoss
    ) -> Objective:
        """Return the cross-entropy, or the focal loss, with label smoothing, class weights and logit adjustment."""
        class_weights = weights_of_classes(config.class_weights, targets, num_labels=len(self.names))
        counts = np.bincount(targets, minlength=len(self.names))
        log_priors = torch.from_numpy(np.log(np.maximum(counts, 0.5) / len(targets)))

        def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            weights = None if class_weights is None else torch.from_numpy(class_weights).to(logits)
            if config.logit_adjustment > 0:
                logits = adjust_logits(logits, log_priors.to(logits), config.logit_adjustment)
            if config.loss == "focal":
                return focal_losses(logits, labels, gamma=config.focal_gamma, class_weights=weights)
            return example_losses(
                logits, labels, binary_loss=binary_loss, label_smoothing=config.label_smoothing, class_weights=weights
            )

        return Objective(losses, None if class_weights is None else class_weights[targets])

    def outputs(self, logits: torch.Tensor) -> np.ndarray:
        """Return the probability of each label, float64 [texts, labels]."""
        shares: np.ndarray = probabilities(logits).numpy()
        return shares

    def chosen(self, outputs: np.ndarray) -> np.ndarray:
        """Return the id of the label that is predicted for each text: the most probable one."""
        return np.asarray(outputs.argmax(axis=1))

    def point_scores(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return accuracy, F1 and others, as `nlptl.evaluation.metrics` does."""
        return point_scores(targets, outputs)

    def score(self, targets: np.ndarray, outputs: np.ndarray, *, seed: int) -> Scores:
        """Return the scores with intervals, and those of each label."""
        return score_predictions(targets, outputs, names=self.names, seed=seed)

    def baseline(self, targets: np.ndarray, *, train_targets: np.ndarray, seed: int) -> Scores:
        """Return the scores of the most frequent label of train."""
        counts = np.bincount(train_targets, minlength=len(self.names))
        return majority_scores(targets, train_counts=counts, names=self.names, seed=seed)

    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return the label, its probability, and the probability of each label."""
        chosen = self.chosen(outputs)
        return {
            name: [self.names[i] for i in chosen],
            "probability": outputs[np.arange(len(outputs)), chosen],
            **{f"probability_{label}": outputs[:, i] for i, label in enumerate(self.names)},
        }

    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> list[Prediction]:
        """Return the label of each text, with the probabilities of all."""
        return [
            Prediction(self.names[best], row[best], dict(zip(self.names, row, strict=True)))
            for best, row in zip(self.chosen(outputs).tolist(), outputs.tolist(), strict=True)
        ]

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Say so, if every prediction is the same label while the targets are not."""
        predicted = np.unique(self.chosen(outputs))
        if len(predicted) == 1 < len(np.unique(targets)):
            return (
                f"every prediction is {self.names[predicted[0]]!r}: the model has not learned to tell the classes "
                "apart; train for more steps or at another --learning-rate, or pass --class-weights balanced"
            )
        return None


def example_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    binary_loss: BinaryLoss = "softmax",
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of each example, shape [batch], from logits [batch, labels] and label ids [batch].

    With `binary_loss="sigmoid"` this is the binary cross-entropy of the second logit; otherwise the cross-entropy.
    Label smoothing spreads that share of the target evenly over the labels (Szegedy et al. 2016, arXiv:1512.00567,
    section 7). With `class_weights` [labels], the mean over a batch is the sum of the losses divided by the sum of the
    weights of its labels, as in `torch.nn.functional.cross_entropy`.
    """
    if binary_loss == "sigmoid":
        targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        weight = None if class_weights is None else class_weights[0]
        ratio = None if class_weights is None else class_weights[1] / class_weights[0]
        return F.binary_cross_entropy_with_logits(
            logits[:, 1], targets, weight=weight, pos_weight=ratio, reduction="none"
        )
    return F.cross_entropy(logits, labels, weight=class_weights, reduction="none", label_smoothing=label_smoothing)


def weights_of_classes(setting: ClassWeights, labels: np.ndarray, *, num_labels: int) -> np.ndarray | None:
    """Return the weight of each class, float64 [num_labels], from the setting and the label ids of the training split.

    "balanced" is scikit-learn's: examples / (classes * examples of the class), over the classes there are. None: no
    weights.
    """
    if setting != "balanced":
        return None if setting is None else np.array(setting)
    weights, found = np.ones(num_labels), np.unique(labels)
    weights[found] = compute_class_weight("balanced", classes=found, y=labels)
    return weights


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability of each label in float64, shape [batch, labels]."""
    return logits.double().softmax(dim=-1)
