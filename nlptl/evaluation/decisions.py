"""Decisions based on probabilities: thresholds, abstention, sets of labels, and out-of-scope texts."""

from dataclasses import dataclass

import numpy as np
import scipy
from scipy.special import logsumexp

from nlptl.errors import ConfigError
from nlptl.evaluation.conformal import PredictionSets

OUT_OF_SCOPE = "out_of_scope"
"""The label of texts unlike the training texts."""


@dataclass(frozen=True)
class Abstention:
    """Predict no label if the probability of the best one is lower than `below`.

    Raises:
        ConfigError: If a number is out of range.
    """

    below: float
    target_accuracy: float | None = None
    """The requested accuracy; None if `below` was given."""
    accuracy: float | None = None
    """Accuracy of the predicted labels on the rows it was fitted on."""
    coverage: float | None = None
    """Fraction of these rows with a predicted label."""

    def __post_init__(self) -> None:
        shares = [each for each in (self.target_accuracy, self.accuracy, self.coverage) if each is not None]
        if not all(0 <= each <= 1 for each in [self.below, *shares]):
            raise ConfigError(
                f"Expected probabilities from 0 to 1 for abstention, found {self}. Pass numbers in this range."
            )


@dataclass(frozen=True)
class Scope:
    """A text is out of scope if its score is lower than `least`.

    Raises:
        ConfigError: If a number is out of range.
    """

    kept: float
    """Fraction of the rows it was fitted on that are in scope."""
    least: float

    def __post_init__(self) -> None:
        if not (0 < self.kept < 1 and np.isfinite(self.least)):
            raise ConfigError(f"Expected a share between 0 and 1 and a finite score, found {self}. Calibrate again.")


@dataclass(frozen=True)
class Decisions:
    """Decisions of a task with one label for each text, chosen on validation; None if not used.

    Raises:
        ConfigError: If the threshold is not a probability.
    """

    threshold: float | None = None
    """Lowest probability at which the second of two labels is predicted; None predicts the more probable label."""
    abstention: Abstention | None = None
    sets: PredictionSets | None = None
    scope: Scope | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"Expected a threshold from 0 to 1, found {self.threshold}. Pass a probability.")


def fit_abstention(correct: np.ndarray, confidence: np.ndarray, *, target_accuracy: float) -> Abstention | None:
    """Return the lowest confidence threshold that reaches an accuracy; None if no threshold does.

    The accuracy is that of these rows at the best of many thresholds. On new texts it is lower, more so with few rows.

    `correct` says whether the label of each row is right, bool [rows]; `confidence` is its probability [rows].

    Source:
        Geifman and El-Yaniv 2017, arXiv:1705.08500 (softmax response), without the bound on the risk of new texts.
    """
    order = np.argsort(-confidence, kind="stable")
    descending = confidence[order]
    last = np.append(np.flatnonzero(np.diff(descending)), len(order) - 1)  # equal confidences get a label together
    accuracy = np.cumsum(correct[order])[last] / (last + 1)
    reached = np.flatnonzero(accuracy >= target_accuracy)
    if len(reached) == 0:
        return None
    best = reached[-1]
    below = 0.0 if best == len(last) - 1 else float(descending[last[best]])
    return Abstention(below, target_accuracy, float(accuracy[best]), float((last[best] + 1) / len(order)))


def scope_scores(logits: np.ndarray) -> np.ndarray:
    """Return the negative free energy of each text, log(sum(exp(logits))), [rows]; low for unlike texts.

    Source:
        Liu, Wang, Owens and Li 2020, Energy-based Out-of-distribution Detection, arXiv:2010.03759, equation 3, T = 1.
    """
    return np.asarray(logsumexp(logits.astype(np.float64), axis=1))


def fit_scope(logits: np.ndarray, *, kept: float) -> Scope:
    """Return the scope that keeps the fraction `kept` of these texts, or slightly more."""
    ascending = np.sort(scope_scores(logits))
    return Scope(kept, float(ascending[int((1 - kept) * len(ascending) + 1e-9)]))


def share_text(count: int, n: int) -> str:
    """Return a fraction with its exact (Clopper-Pearson) 95 % interval as text; "none" if n is 0."""
    if n == 0:
        return "none"
    interval = scipy.stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    return f"{count / n:.4f} ({interval.low:.4f} to {interval.high:.4f})"
