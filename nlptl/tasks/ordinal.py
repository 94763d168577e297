"""Each text has one label out of several in an order, such as stars: conditional ordinal regression (CORN).

A head with a unit z_k for each step between two labels models P(y > k | y > k - 1) = sigmoid(z_k) (Shi, Cao and Raschka
2021, arXiv:2111.08851). The network gives the logarithms of the probabilities of all labels that follow from them, so
that softmax over its logits gives these probabilities, in pipelines too.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.special import log_softmax

from nlptl.config import BinaryLoss, TaskKind, TrainingConfig
from nlptl.data.sources import Examples
from nlptl.data.targets import order_problem
from nlptl.data.tokens import Tokens
from nlptl.errors import ConfigError
from nlptl.evaluation import ordinal
from nlptl.evaluation.calibration import Calibration, fit_temperature
from nlptl.evaluation.metrics import Scorer
from nlptl.evaluation.ordinal import median_class, scale_rank_odds
from nlptl.tasks.losses import num_conditions
from nlptl.tasks.single_label import SingleLabel
from nlptl.tasks.task import Objective


@dataclass(frozen=True)
class Ordinal(SingleLabel):
    """One label for each text; `names` are in their order, from the lowest to the highest."""

    kind: ClassVar[TaskKind] = "ordinal"
    baseline_name: ClassVar[str] = "median baseline"
    settings: ClassVar[tuple[str, ...]] = ("sampling",)
    calibrations: ClassVar[tuple[str, ...]] = ("temperature",)
    choices: ClassVar[tuple[str, ...]] = ("target_accuracy", "coverage")
    threshold_metrics: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_examples(cls, train: Examples, *, order: tuple[str, ...] = ()) -> Self:
        """Return the task with the labels that occur in `train`: numbers, or in the given order.

        Raises:
            ConfigError: If the labels are no numbers, and their order is not given, or given wrongly.
            DataError: If there are fewer than two.
        """
        if problem := order_problem(train.labels, order, where=train.source):
            raise ConfigError(f"{problem.found}. {problem.way_out}")
        return cls(tuple(order) or tuple(sorted(set(train.labels), key=float)))

    def objective(
        self, config: TrainingConfig, targets: np.ndarray, tokens: Tokens, *, binary_loss: BinaryLoss
    ) -> Objective:
        """Return the loss of CORN; the weight of an example is the number of its conditions."""

        def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return -logits.gather(1, labels[:, None])[:, 0]

        counts = num_conditions(torch.from_numpy(targets), len(self.names))
        return Objective(losses, counts.double().numpy())

    def outputs(self, logits: torch.Tensor) -> np.ndarray:
        """Return the probability of each label, float64 [texts, labels]."""
        if self.calibration.method == "none":
            return super().outputs(logits)
        return np.asarray(np.exp(_tempered(logits.double().numpy(), self.calibration.temperature)))

    def fit_calibration(self, targets: np.ndarray, logits: np.ndarray, choice: str) -> Calibration:
        """Return a temperature for the odds of passing each step, which does not change the median."""
        return fit_temperature(targets, logits, log_probabilities=_tempered)

    def doubts(self, targets: np.ndarray, outputs: np.ndarray) -> str | None:
        """Return the warning of the parent, with balanced sampling instead of class weights."""
        said = super().doubts(targets, outputs)
        return None if said is None else said.replace("pass --class-weights balanced", "pass sampling balanced")

    def chosen(self, outputs: np.ndarray) -> np.ndarray:
        """Return the median of the distribution of each text, as CORN does."""
        return median_class(outputs)

    def scorer(self, targets: np.ndarray, outputs: np.ndarray) -> Scorer:
        """Return the scorer of quadratic kappa, mean absolute error and others."""
        return ordinal.scorer(targets, outputs, names=self.names)


def _tempered(logits: np.ndarray, temperature: float) -> np.ndarray:
    return scale_rank_odds(log_softmax(logits, axis=1), temperature)
