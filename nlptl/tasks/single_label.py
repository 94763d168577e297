"""Each text has one label out of two or more.

A classifier always gives one logit per label. In the sigmoid form of a binary head the first logit is held at zero:
softmax over (0, z) is the sigmoid of z, so that probabilities, saved models and pipelines are as in the softmax form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F

from nlptl.config import BinaryLoss, ClassWeights, DecisionConfig, TaskKind, TrainingConfig, from_json, to_json
from nlptl.data.sources import Examples
from nlptl.data.tokens import Tokens
from nlptl.evaluation import metrics
from nlptl.evaluation.calibration import Calibration, fit_temperature, fit_vector
from nlptl.evaluation.conformal import fit_prediction_sets
from nlptl.evaluation.decisions import (
    OUT_OF_SCOPE,
    Abstention,
    Decisions,
    fit_abstention,
    fit_scope,
    scope_scores,
    share_text,
)
from nlptl.evaluation.multi_label import tune_thresholds
from nlptl.labels import Labels
from nlptl.tasks.losses import adjust_logits, focal_losses
from nlptl.tasks.task import LOSS_SETTINGS, Objective, Task

LEAST_OF_LABEL = 20
"""Smallest number of texts of a label for which a share is reported."""


@dataclass(frozen=True)
class Prediction:
    """The predicted label of a text, its probability, and the probability of every label by name."""

    label: str | None
    """None: the model abstains, since the probability is low; "out_of_scope": the text is unlike the training texts."""
    probability: float
    """Probability of the predicted label, also where the model abstains."""
    probabilities: dict[str, float]
    label_set: tuple[str, ...] | None = None
    """Labels that contain the true one with the requested coverage; None: none was requested."""


@dataclass(frozen=True)
class SingleLabel(Task):
    """One label for each text."""

    decisions: Decisions = field(default=Decisions(), kw_only=True)
    """What was fitted besides the calibration."""

    kind: ClassVar[TaskKind] = "single_label"
    problem_type: ClassVar[str | None] = "single_label_classification"
    baseline_name: ClassVar[str] = "majority baseline"
    settings: ClassVar[tuple[str, ...]] = LOSS_SETTINGS
    calibrations: ClassVar[tuple[str, ...]] = ("temperature", "vector")
    choices: ClassVar[tuple[str, ...]] = ("threshold_metric", "target_accuracy", "coverage", "out_of_scope")
    threshold_metrics: ClassVar[tuple[str, ...]] = ("f1", "accuracy", "macro_f1", "matthews")

    def __post_init__(self) -> None:
        super().__post_init__()
        Labels(self.names)  # refuses fewer than two, and repeated ones

    @classmethod
    def from_examples(cls, train: Examples) -> Self:
        """Return the task with the labels that occur in `train`."""
        return cls(Labels.from_names(train.labels).names)

    def targets(self, examples: Examples) -> np.ndarray:
        """Return the label ids, int64 [examples]."""
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
        calibrated = torch.from_numpy(self.calibration.apply(logits.double().numpy()))
        shares: np.ndarray = calibrated.softmax(dim=-1).numpy()
        return shares

    def untuned(self) -> Self:
        """Return the task without calibration and decisions."""
        return replace(super().untuned(), decisions=Decisions())

    def fit_calibration(self, targets: np.ndarray, logits: np.ndarray, choice: str) -> Calibration:
        """Return a temperature, or a scale and an offset for each label."""
        return fit_vector(targets, logits) if choice == "vector" else fit_temperature(targets, logits)

    def decided(self, targets: np.ndarray, logits: torch.Tensor, config: DecisionConfig) -> Self:
        """Return the task with those of threshold, abstention, label sets and scope that the config requests."""
        outputs, decisions = self.outputs(logits), Decisions()
        if config.threshold_metric is not None:
            second = targets[:, None] == 1
            (threshold,) = tune_thresholds(second, outputs[:, 1:], metric=config.threshold_metric)
            decisions = replace(decisions, threshold=float(threshold))
        if config.out_of_scope is not None:
            decisions = replace(decisions, scope=fit_scope(logits.double().numpy(), kept=config.out_of_scope))
        task = replace(self, decisions=decisions)
        if config.target_accuracy is not None:
            chosen, is_in = task.chosen(outputs), ~task._is_out_of_scope(logits)  # others get no label anyway
            is_right, probability = (chosen == targets)[is_in], _of_chosen(outputs, chosen)[is_in]
            abstention = fit_abstention(is_right, probability, target_accuracy=config.target_accuracy)
            decisions = replace(decisions, abstention=abstention)
        if config.coverage is not None:
            decisions = replace(decisions, sets=fit_prediction_sets(targets, outputs, coverage=config.coverage))
        return replace(self, decisions=decisions)

    def abstaining(self, below: float) -> Self:
        """Return the task that abstains if the probability of the label is lower than `below`; 0: never.

        Raises:
            ConfigError: If `below` is not a probability.
        """
        return replace(self, decisions=replace(self.decisions, abstention=Abstention(below)))

    def chosen(self, outputs: np.ndarray) -> np.ndarray:
        """Return the id of the predicted label of each text: the most probable one, or by the threshold."""
        if self.decisions.threshold is not None:
            return np.asarray(outputs[:, 1] >= self.decisions.threshold, dtype=np.int64)
        return np.asarray(outputs.argmax(axis=1))

    def scorer(self, targets: np.ndarray, outputs: np.ndarray) -> metrics.Scorer:
        """Return the scorer of accuracy, F1 and others."""
        return metrics.scorer(targets, outputs, names=self.names, predictions=self.chosen(outputs))

    def constant(self, train_targets: np.ndarray) -> tuple[Self, np.ndarray]:
        """Return the task and the share of each label in train; a missing label counts as half a text."""
        counts = np.maximum(np.bincount(train_targets, minlength=len(self.names)), 0.5)
        return self, counts / counts.sum()

    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return the label, its probability, and the probability of each label."""
        chosen = self.chosen(outputs)
        return {
            name: [self.names[i] for i in chosen],
            "probability": _of_chosen(outputs, chosen),
            **{f"probability_{label}": outputs[:, i] for i, label in enumerate(self.names)},
        }

    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> list[Prediction]:
        """Return the label of each text, with the probabilities of all."""
        return [
            Prediction(self.names[best], row[best], dict(zip(self.names, row, strict=True)))
            for best, row in zip(self.chosen(outputs).tolist(), outputs.tolist(), strict=True)
        ]

    def answers(self, logits: torch.Tensor, read: Sequence[str], texts: Sequence[str]) -> list[Prediction]:
        """Return the predictions after abstention, with texts out of scope marked, and with label sets."""
        outputs = self.outputs(logits)
        predictions, labels = self.predictions(outputs, read, texts), self._labels(outputs, logits)
        sets: Sequence[tuple[str, ...] | None] = [tuple(names) for names in self._label_sets(outputs)]
        sets = sets or [None] * len(labels)
        return [
            replace(p, label=label, label_set=each) for p, label, each in zip(predictions, labels, sets, strict=True)
        ]

    def answer_columns(self, logits: torch.Tensor, read: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
        """Return the columns of `columns` after abstention and scope, and label_set where sets were requested."""
        outputs = self.outputs(logits)
        columns = self.columns(outputs, read, texts, name="label")
        columns["label"] = self._labels(outputs, logits)
        return columns if self.decisions.sets is None else {**columns, "label_set": self._label_sets(outputs)}

    def decision_remarks(self, targets: np.ndarray, logits: torch.Tensor) -> list[str]:
        """Return lines on threshold, abstention, sets of labels and scope on a split."""
        lines, decisions, outputs = [], self.decisions, self.outputs(logits)
        if decisions.threshold is not None:
            lines.append(f"threshold: {self.names[1]!r} is predicted at probability {decisions.threshold:.4f} or more")
        if decisions.abstention is not None:
            chosen = self.chosen(outputs)
            is_given = ~self._is_out_of_scope(logits) & (_of_chosen(outputs, chosen) >= decisions.abstention.below)
            is_right, given = (chosen == targets)[is_given], chosen[is_given]
            lines.append(
                f"abstention below probability {decisions.abstention.below:.4f}: {is_given.mean():.1%} of the texts "
                f"get a label, of which {share_text(int(is_right.sum()), len(given))} are right"
                f"{self._fewest(is_right, given)}"
            )
        if decisions.sets is not None:
            sets = decisions.sets.of(outputs)
            is_held = sets[np.arange(len(targets)), targets]
            lines.append(
                f"sets of labels for coverage {decisions.sets.coverage:g}: "
                f"{share_text(int(is_held.sum()), len(targets))} contain the label, with {sets.sum(axis=1).mean():.2f} "
                f"labels on average{self._fewest(is_held, targets)}"
            )
        if decisions.scope is not None:
            kept = int((~self._is_out_of_scope(logits)).sum())
            lines.append(f"scope: {share_text(kept, len(targets))} of the texts are in scope")
        return lines

    def card(self) -> dict[str, Any]:
        """Return calibration and decisions."""
        return {**super().card(), "decisions": to_json(self.decisions)}

    @classmethod
    def from_card(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Self:
        """Return the task with the calibration and the decisions that were saved."""
        decisions = from_json(Decisions, values.get("decisions", {}))  # models of nlptl 0.1.0 may have none
        if decisions.threshold is not None and len(names) != 2:
            raise ValueError(f"a threshold for {len(names)} labels")
        return cls(names, calibration=cls.saved_calibration(names, values), decisions=decisions)

    def _labels(self, outputs: np.ndarray, logits: torch.Tensor) -> list[str | None]:
        """Return the label of each text, `OUT_OF_SCOPE`, or None where the model abstains."""
        chosen, abstention = self.chosen(outputs), self.decisions.abstention
        below = 0.0 if abstention is None else abstention.below
        is_given, is_out = _of_chosen(outputs, chosen) >= below, self._is_out_of_scope(logits)
        labels = [self.names[i] if given else None for i, given in zip(chosen, is_given, strict=True)]
        return [OUT_OF_SCOPE if out else label for label, out in zip(labels, is_out, strict=True)]

    def _is_out_of_scope(self, logits: torch.Tensor) -> np.ndarray:
        if self.decisions.scope is None:
            return np.zeros(len(logits), dtype=bool)
        return np.asarray(scope_scores(logits.double().numpy()) < self.decisions.scope.least)

    def _fewest(self, is_good: np.ndarray, labels: np.ndarray) -> str:
        """Return a phrase with the label that has the smallest share of good texts; "" if too little is known."""
        counts = np.bincount(labels, minlength=len(self.names))
        if len(self.names) < 3 or counts.max() < LEAST_OF_LABEL:
            return ""
        shares = np.bincount(labels, weights=is_good, minlength=len(self.names)) / np.maximum(counts, 1)
        worst = int(np.where(counts >= LEAST_OF_LABEL, shares, np.inf).argmin())
        return f"; fewest for {self.names[worst]!r}: {shares[worst]:.4f} of {counts[worst]:,}"

    def _label_sets(self, outputs: np.ndarray) -> list[list[str]]:
        """Return the labels in the set of each text; an empty list if no sets were requested."""
        if self.decisions.sets is None:
            return []
        return [[self.names[i] for i in np.flatnonzero(row)] for row in self.decisions.sets.of(outputs)]

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return a warning if every prediction is the same label, but the targets are not."""
        predicted = np.unique(self.chosen(outputs))
        if len(predicted) == 1 < len(np.unique(targets)):
            return (
                f"every prediction is {self.names[predicted[0]]!r}: the model has not learned to tell the classes "
                "apart; train for more steps or at another --learning-rate, or pass --class-weights balanced"
            )
        return None


def _of_chosen(outputs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.asarray(outputs[np.arange(len(outputs)), chosen])


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
    Label smoothing spreads this fraction of the target evenly over the labels (Szegedy et al. 2016, arXiv:1512.00567,
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

    "balanced" is scikit-learn's: examples / (classes * examples of the class), over the classes that occur. None: no
    weights.
    """
    if setting != "balanced":
        return None if setting is None else np.array(setting)
    from sklearn.utils.class_weight import compute_class_weight  # takes half a second

    weights, found = np.ones(num_labels), np.unique(labels)
    weights[found] = compute_class_weight("balanced", classes=found, y=labels)
    return weights
