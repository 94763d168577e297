"""What is said where a probability is not all that counts: thresholds, no answer, a set of labels, out of scope."""

from dataclasses import dataclass

import numpy as np
import scipy
from scipy.special import logsumexp

from nlptl.errors import ConfigError
from nlptl.evaluation.conformal import PredictionSets

OUT_OF_SCOPE = "out_of_scope"
"""The label of texts that are unlike those a model was trained for."""


@dataclass(frozen=True)
class Abstention:
    """No label is given where the probability of the predicted one is lower than `below`.

    Raises:
        ConfigError: If a number is out of range.
    """

    below: float
    target_accuracy: float | None = None
    """The accuracy that was asked for; None: `below` was given."""
    accuracy: float | None = None
    """The share of right labels among those that were given, on the rows it was fitted on."""
    coverage: float | None = None
    """The share of these rows that got a label."""

    def __post_init__(self) -> None:
        shares = [each for each in (self.target_accuracy, self.accuracy, self.coverage) if each is not None]
        if not all(0 <= each <= 1 for each in [self.below, *shares]):
            raise ConfigError(f"Expected probabilities from 0 to 1 for abstention, found {self}. Pass others.")


@dataclass(frozen=True)
class Scope:
    """A text is out of scope where its score is lower than `least`.

    Raises:
        ConfigError: If a number is out of range.
    """

    kept: float
    """The share of the rows it was fitted on that are in scope."""
    least: float

    def __post_init__(self) -> None:
        if not (0 < self.kept < 1 and np.isfinite(self.least)):
            raise ConfigError(f"Expected a share between 0 and 1 and a finite score, found {self}. Pass others.")


@dataclass(frozen=True)
class Decisions:
    """What was chosen on validation for a task with one label for each text; None: it is not in use.

    Raises:
        ConfigError: If the threshold is no probability.
    """

    threshold: float | None = None
    """From which probability of the second one of two labels on it is predicted; None: where it is the larger one."""
    abstention: Abstention | None = None
    sets: PredictionSets | None = None
    scope: Scope | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"Expected a threshold from 0 to 1, found {self.threshold}. Pass another one.")


def fit_abstention(correct: np.ndarray, confidence: np.ndarray, *, target_accuracy: float) -> Abstention | None:
    """Return the lowest confidence from which on the labels are right as often as asked for; None: there is none.

    The accuracy is that of these rows, the best of many thresholds: of new texts expect somewhat less, the fewer rows
    the more so.

    Args:
        correct: Whether the label of each row is right, bool [rows].
        confidence: Its probability [rows].
        target_accuracy: Share of right labels that is wanted among those that are given.

    Source:
        Selective classification by the softmax response: Geifman and El-Yaniv 2017, arXiv:1705.08500, whose bound on
        the risk of new texts is not applied here.
    """
    order = np.argsort(-confidence, kind="stable")
    descending = confidence[order]
    last = np.append(np.flatnonzero(np.diff(descending)), len(order) - 1)  # equals get a label together or not at all
    accuracy = np.cumsum(correct[order])[last] / (last + 1)
    reached = np.flatnonzero(accuracy >= target_accuracy)
    if len(reached) == 0:
        return None
    best = reached[-1]
    below = 0.0 if best == len(last) - 1 else float(descending[last[best]])
    return Abstention(below, target_accuracy, float(accuracy[best]), float((last[best] + 1) / len(order)))


def scope_scores(logits: np.ndarray) -> np.ndarray:
    """Return the negative free energy of each text, the log of the sum of exp(logit), [rows]: low where it is unlike.

    Source:
        Liu, Wang, Owens and Li 2020, Energy-based Out-of-distribution Detection, arXiv:2010.03759, equation 3, T = 1.
    """
    return np.asarray(logsumexp(logits.astype(np.float64), axis=1))


def fit_scope(logits: np.ndarray, *, kept: float) -> Scope:
    """Return the scope that holds the share `kept` of these texts, or just more."""
    ascending = np.sort(scope_scores(logits))
    return Scope(kept, float(ascending[int((1 - kept) * len(ascending) + 1e-9)]))


def share_text(count: int, n: int) -> str:
    """Return a share with its exact (Clopper-Pearson) 95 % interval in words; "none" of none."""
    if n == 0:
        return "none"
    interval = scipy.stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    return f"{count / n:.4f} ({interval.low:.4f} to {interval.high:.4f})"
