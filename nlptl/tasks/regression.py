"""Each text has a score, or several. The network predicts scores that are scaled to mean 0 and variance 1.

In a saved model the scale is part of the last layer, so that logits are scores, in stock transformers too. Loading
takes it out again, since adding a large mean, or adding in half precision, would lose digits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F

from nlptl.config import BinaryLoss, TaskKind, TrainingConfig
from nlptl.data.numbers import numbers
from nlptl.data.sources import Examples
from nlptl.data.targets import check_targets
from nlptl.data.tokens import Tokens
from nlptl.errors import DataError
from nlptl.evaluation import regression
from nlptl.evaluation.metrics import Scorer
from nlptl.labels import Labels
from nlptl.tasks.task import Objective, Task


@dataclass(frozen=True)
class ScorePrediction:
    """The scores of a text by name; `score` is the first one."""

    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Regression(Task):
    """A score for each text, or several; a score is its logit times `scales` plus `means`."""

    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()

    kind: ClassVar[TaskKind] = "regression"
    problem_type: ClassVar[str | None] = "regression"
    baseline_name: ClassVar[str] = "mean baseline"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.names or len(set(self.names)) != len(self.names):
            raise DataError(
                f"Expected the name of a score or different ones of several, found {list(self.names)}. Pass for "
                "instance Regression(('score',))."
            )

    @classmethod
    def from_examples(cls, train: Examples) -> Self:
        """Return the task with the scores in `train`, and their means and standard deviations."""
        names = tuple(numbers(train.labels[0])) if train.labels else ("score",)
        targets = cls(names).targets(train)
        check_targets(train.labels, cls.kind, where=train.source)
        means, scales = targets.mean(axis=0), targets.std(axis=0)
        return cls(names, tuple(means.tolist()), tuple(scales.tolist()))

    @property
    def labels(self) -> Labels:
        """Raise DataError, since scores are no labels."""
        raise DataError("Expected labels, found a regression, which has scores. Use task.names.")

    def targets(self, examples: Examples) -> np.ndarray:
        """Return the scores, float64 [examples, scores]."""
        rows = [numbers(target) for target in examples.labels]
        wrong = next((row for row in rows if tuple(row) != self.names), None)
        if wrong is not None:
            raise DataError(
                f"Expected the scores {', '.join(self.names)} in {examples.source}, found {', '.join(wrong)}. Pass the "
                "same --label-columns as in training."
            )
        return np.array([list(row.values()) for row in rows], dtype=np.float64)

    def objective(
        self, config: TrainingConfig, targets: np.ndarray, tokens: Tokens, *, binary_loss: BinaryLoss
    ) -> Objective:
        """Return the squared error in units of the standard deviation, averaged over the scores."""
        means, scales = (torch.from_numpy(each) for each in self.scaling())

        def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            wanted = (targets - means.to(targets.device)) / scales.to(targets.device)
            return F.mse_loss(logits, wanted.to(logits.dtype), reduction="none").mean(dim=1)

        return Objective(losses)

    def outputs(self, logits: torch.Tensor) -> np.ndarray:
        """Return the scores, float64 [texts, scores]."""
        means, scales = self.scaling()
        return np.asarray(logits.double().numpy() * scales + means)

    def scorer(self, targets: np.ndarray, outputs: np.ndarray) -> Scorer:
        """Return the scorer of correlations and errors."""
        return regression.scorer(targets, outputs, names=self.names)

    def constant(self, train_targets: np.ndarray) -> tuple[Self, np.ndarray]:
        """Return the task and the mean of train."""
        return self, train_targets.mean(axis=0)

    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return a column for each score."""
        if len(self.names) == 1:
            return {name if name == "predicted" else self.names[0]: outputs[:, 0]}
        prefix = "predicted_" if name == "predicted" else ""
        return {f"{prefix}{each}": outputs[:, i] for i, each in enumerate(self.names)}

    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> list[ScorePrediction]:
        """Return the scores of each text."""
        return [ScorePrediction(row[0], dict(zip(self.names, row, strict=True))) for row in outputs.tolist()]

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return a warning if the scores of all texts are nearly the same, but the targets differ."""
        if (outputs.std(axis=0) < 0.01 * targets.std(axis=0)).any():
            return (
                "all scores are nearly the same: the model has not learned to tell the texts apart; train for more "
                "steps or at another --learning-rate"
            )
        return None

    def describe_calibration(self, targets: np.ndarray, logits: torch.Tensor) -> None:
        """Return None, since scores are no probabilities."""

    def card(self) -> dict[str, Any]:
        """Return the scale."""
        means, scales = self.scaling()
        return {"means": means.tolist(), "scales": scales.tolist()}

    @classmethod
    def from_card(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Self:
        """Return the task with the scale that was saved."""
        means, scales = (tuple(map(float, values[key])) for key in ("means", "scales"))
        if not (len(means) == len(scales) == len(names) and np.isfinite(means).all() and min(scales) > 0):
            raise ValueError(f"means {means} and scales {scales}")
        return cls(names, means, scales)

    def scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Return means and scales, float64 [scores] each: a score is its logit times the scale plus the mean."""
        count = len(self.names)
        return np.array(self.means or [0.0] * count), np.array(self.scales or [1.0] * count)
