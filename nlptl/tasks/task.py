"""What kinds of tasks differ in: how targets are read, the loss of each example, scores, and what is predicted."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from nlptl.config import BinaryLoss, TaskKind, TrainingConfig
from nlptl.data.sources import Examples
from nlptl.data.tokens import Tokens
from nlptl.evaluation.metrics import Scores
from nlptl.labels import Labels


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

    kind: ClassVar[TaskKind]
    problem_type: ClassVar[str | None]
    """What transformers calls it, whose pipelines go by it."""
    metrics: ClassVar[tuple[str, ...]]
    """Scores by which the best model can be chosen; the first one is, unless another is asked for."""
    baseline_name: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()
    """Settings of the loss in `TrainingConfig` that apply."""

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
        """Return what is predicted, in float64: probabilities or scores [texts, names]."""

    def untuned(self) -> Self:
        """Return the task without what was chosen on validation after another training."""
        return self

    def tuned(self, targets: np.ndarray, logits: torch.Tensor) -> Self:
        """Return the task with what is chosen on validation after training, such as thresholds."""
        return self

    @abstractmethod
    def point_scores(self, targets: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Return the scores by name, without intervals."""

    @abstractmethod
    def score(self, targets: np.ndarray, outputs: np.ndarray, *, seed: int) -> Scores:
        """Return the scores with 95 % intervals."""

    @abstractmethod
    def baseline(self, targets: np.ndarray, *, train_targets: np.ndarray, seed: int) -> Scores:
        """Return the scores of a baseline that has read the targets of train and no text."""

    @abstractmethod
    def columns(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str], *, name: str) -> dict[str, Any]:
        """Return the columns of a table of predictions; the one with what is predicted is called `name`.

        `read` is what the model has read of each of the texts, as `readable` returns it.
        """

    @abstractmethod
    def predictions(self, outputs: np.ndarray, read: Sequence[str], texts: Sequence[str]) -> Sequence[Any]:
        """Return a prediction for each text."""

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return what looks as if nothing was learned; None: nothing does."""
        return None

    def card(self) -> dict[str, Any]:
        """Return what has to be saved beside the names, as JSON."""
        return {}

    @classmethod
    def from_card(cls, names: tuple[str, ...], values: Mapping[str, Any]) -> Self:
        """Return the task that was saved.

        Raises:
            ValueError: If it is damaged.
        """
        return cls(names)
