"""Measure the calibration of probabilities, and calibrate logits on held-out data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.metrics import log_loss

CalibrationMethod = Literal["none", "temperature", "vector", "platt"]

BINS = 15
"""Bins of equal width in the expected calibration error, as in Guo et al. (2017)."""
IMPOSSIBLE = -1e6
"""Log probability below which a label was ruled out; such rows tell nothing about the scale of logits."""
_LOG_BOUNDS = (-10.0, 10.0)
FEW_ROWS, _LOG_BOUNDS_OF_FEW = 50, (float(np.log(0.1)), float(np.log(10.0)))
"""With fewer rows, such as a single wrong one, the best temperature can be extreme; it is limited to 0.1 to 10."""


@dataclass(frozen=True)
class Calibration:
    """A change of logits before they become probabilities.

    "temperature" divides them by `temperature`; "vector" and "platt" multiply each logit by one of `scales` and add one
    of `offsets`.

    Raises:
        ConfigError: If the numbers do not belong to the method or are not finite, or a scale is not positive.
    """

    method: CalibrationMethod = "none"
    temperature: float = 1.0
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        is_sound = len(self.scales) == len(self.offsets) and bool(self.scales) == self.is_linear
        is_sound &= self.method == "temperature" or self.temperature == 1
        is_sound &= bool(np.isfinite([self.temperature, *self.scales, *self.offsets]).all()) and self.temperature > 0
        is_sound &= self.method != "platt" or all(scale > 0 for scale in self.scales)
        if not is_sound:
            raise ConfigError(
                f"Expected the finite numbers of one calibration, temperature or scales and offsets, found {self}. "
                "Pass a calibration fitted by nlptl.evaluation.calibration."
            )

    @property
    def is_linear(self) -> bool:
        """Whether it has scales and offsets."""
        return self.method in ("vector", "platt")

    @property
    def parameters(self) -> dict[str, Any]:
        """The fitted numbers by name."""
        if self.method == "temperature":
            return {"temperature": self.temperature}
        return {"scales": list(self.scales), "offsets": list(self.offsets)} if self.is_linear else {}

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return calibrated logits, float64 [rows, labels]."""
        logits = logits.astype(np.float64) / self.temperature
        return logits * np.array(self.scales) + np.array(self.offsets) if self.is_linear else logits


def fit_temperature(
    targets: np.ndarray,
    logits: np.ndarray,
    *,
    smoothing: float | None = None,
    log_probabilities: Callable[[np.ndarray, float], np.ndarray] | None = None,
) -> Calibration:
    """Return the temperature that minimizes the negative log-likelihood of the labels.

    A split without a mistake would give temperature 0, that is, certainty. Therefore each label is assumed to be right
    with probability 1 - smoothing, as in Platt (1999, section 2.2): a row whose label has probability p costs
    -(1 - smoothing) log p - smoothing log(1 - p). With fewer than 50 rows, the temperature is limited to 0.1 to 10.

    Args:
        targets: Label ids, integers [rows].
        logits: [rows, labels].
        smoothing: None: 1 / (rows + 2). 0: the plain negative log-likelihood, as in scikit-learn's
            `CalibratedClassifierCV(method="temperature")`.
        log_probabilities: Function from logits and temperature to log probabilities [rows, labels]. None: log softmax
            of logits / temperature.

    Raises:
        DataError: If targets and logits do not fit each other.

    Source:
        Guo, Pleiss, Sun and Weinberger 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 4.2.
    """
    targets, logits = _judged(targets, logits)
    share = 1 / (len(targets) + 2) if smoothing is None else smoothing
    of = log_probabilities or (lambda logits, temperature: log_softmax(logits / temperature, axis=1))
    rows = np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        of_labels = of(logits, float(np.exp(log_temperature)))
        own = of_labels[rows, targets].copy()
        of_labels[rows, targets] = -np.inf
        others = logsumexp(of_labels, axis=1) if share > 0 else 0.0
        return float(-((1 - share) * own + share * others).mean())

    if len(targets) == 0:
        return Calibration("temperature")
    is_limited = smoothing is None and len(targets) < FEW_ROWS
    bounds = _LOG_BOUNDS_OF_FEW if is_limited else _LOG_BOUNDS
    best = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    # The minimum is flat: about seven digits are certain. Six give the same temperature for logits that differ only by
    # rounding, such as those of one process and of two.
    return Calibration("temperature", float(f"{np.exp(best):.6g}"))


def fit_vector(targets: np.ndarray, logits: np.ndarray, *, prior: float = 1.0) -> Calibration:
    """Return a scale and an offset for each logit that minimize the negative log-likelihood of the labels.

    A label without rows, or without mistakes, would get an infinite offset. Therefore scales and offsets are
    regularized: `prior` * ((scale - 1)^2 + offset^2) / 2 of each label is added to the loss.

    Args:
        targets: Label ids, integers [rows].
        logits: [rows, labels].
        prior: Strength of the regularization; 0 for none, as in the source.

    Raises:
        DataError: If targets and logits do not fit each other.

    Source:
        Guo, Pleiss, Sun and Weinberger 2017, arXiv:1706.04599, section 4.2, which does not regularize.
    """
    num_labels = logits.shape[1]
    targets, logits = _judged(targets, logits)
    rows, start = np.arange(len(targets)), np.repeat([1.0, 0.0], num_labels)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = logits * parameters[:num_labels] + parameters[num_labels:]
        errors = softmax(scaled, axis=1)
        errors[rows, targets] -= 1
        change = parameters - start
        value = -log_softmax(scaled, axis=1)[rows, targets].sum() + prior * change @ change / 2
        gradient = np.concatenate([(errors * logits).sum(axis=0), errors.sum(axis=0)]) + prior * change
        return value / len(targets), gradient / len(targets)

    found = start
    if len(targets):
        options = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-9}
        found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return Calibration("vector", 1.0, tuple(found[:num_labels].tolist()), tuple(found[num_labels:].tolist()))


def fit_platt(targets: np.ndarray, logits: np.ndarray) -> Calibration:
    """Return a scale and an offset for each label, fitted by logistic regression on its logit.

    A label keeps scale 1 and offset 0 if no row or every row has it, or if the fitted scale would be negative.
    `targets` are 0 and 1, integers [rows, labels]; `logits` have the same shape.

    Raises:
        DataError: If targets and logits do not fit each other.

    Source:
        Platt 1999, Probabilistic Outputs for Support Vector Machines, section 2.2, with its targets
        (positives + 1) / (positives + 2) and 1 / (negatives + 2).
    """
    if targets.shape != logits.shape or targets.ndim != 2:
        raise DataError(
            f"Expected targets and logits of one shape [rows, labels], found {list(targets.shape)} and "
            f"{list(logits.shape)}. Pass one row of targets for each row of logits."
        )
    columns = zip(targets.T.astype(bool), logits.T.astype(np.float64), strict=True)
    scales, offsets = zip(*(_platt_of_label(*column) for column in columns), strict=True)
    return Calibration("platt", 1.0, scales, offsets)


def calibration_error(outcomes: np.ndarray, confidence: np.ndarray, *, bins: int = BINS) -> float:
    """Return the expected calibration error: the difference of mean confidence and accuracy in a bin, averaged by rows.

    Args:
        outcomes: Whether each prediction is right, 0 and 1 or bool [rows].
        confidence: Its probability [rows].
        bins: Number of bins of equal width; each includes its upper edge, the first one also its lower edge.

    Source:
        Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    counts, sums, hits = _bin_sums(outcomes, confidence, bins=bins)
    return float(np.abs(sums - hits).sum() / counts.sum())


def reliability_bins(outcomes: np.ndarray, confidence: np.ndarray, *, bins: int = BINS) -> list[dict[str, Any]]:
    """Return the bins of `calibration_error`: edges, rows, mean confidence and accuracy (None in an empty bin)."""
    counts, sums, hits = _bin_sums(outcomes, confidence, bins=bins)
    edges = np.linspace(0, 1, bins + 1)
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "n": int(count),
            "confidence": float(sums[i] / count) if count else None,
            "accuracy": float(hits[i] / count) if count else None,
        }
        for i, count in enumerate(counts)
    ]


def calibration_figures(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return ece, brier and log_loss of probabilities.

    The calibration error is that of the most probable label. The Brier score of two labels is the mean of (p - y)^2, of
    more labels the mean over rows of the sum over labels, as in scikit-learn. With targets [rows, labels] every cell is
    a binary prediction.

    `targets` are label ids [rows], or 0 and 1 [rows, labels]; `probabilities` are [rows, labels].
    """
    outcomes, confidence = outcomes_of(targets, probabilities)
    if targets.ndim == 2:
        brier = np.square(outcomes - confidence).mean()
        losses = log_loss(outcomes.astype(np.int64), np.stack([1 - confidence, confidence], axis=1))
    else:
        one_hot = np.arange(probabilities.shape[1]) == targets[:, None]
        brier = np.square(probabilities - one_hot).sum(axis=1).mean() / (2 if probabilities.shape[1] == 2 else 1)
        losses = log_loss(targets, probabilities)
    return {"ece": calibration_error(outcomes, confidence), "brier": float(brier), "log_loss": float(losses.mean())}


def describe_calibration(
    targets: np.ndarray, before: np.ndarray, after: np.ndarray, *, calibration: Calibration
) -> dict[str, Any]:
    """Return the effect of a calibration, fitted on other rows, as strict JSON: figures and reliability bins.

    `targets` are label ids [rows], or 0 and 1 [rows, labels]; `before` and `after` are probabilities [rows, labels].
    """
    found: dict[str, Any] = {"method": calibration.method, "parameters": calibration.parameters, "reliability": {}}
    for key, probabilities in (("before", before), ("after", after)):
        found[key] = calibration_figures(targets, probabilities)
        found["reliability"][key] = reliability_bins(*outcomes_of(targets, probabilities))
    return found


def outcomes_of(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each prediction is right, and its probability, each [predictions].

    A prediction is the most probable label of a row, or a cell if targets are [rows, labels].
    """
    if targets.ndim == 2:
        return targets.ravel().astype(bool), probabilities.ravel()
    return probabilities.argmax(axis=1) == targets, probabilities.max(axis=1)


def _judged(targets: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose label was not ruled out, the logits in float64."""
    is_ids = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    if not is_ids or logits.ndim != 2 or len(logits) != len(targets):
        raise DataError(
            f"Expected label ids [rows] and logits [rows, labels], found {targets.dtype} of shape "
            f"{list(targets.shape)} and logits of shape {list(logits.shape)}. Pass one row of logits for each label."
        )
    logits = logits.astype(np.float64)
    is_judged = log_softmax(logits, axis=1)[np.arange(len(targets)), targets] > IMPOSSIBLE
    return targets[is_judged], logits[is_judged]


def _platt_of_label(targets: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    positives, negatives = int(targets.sum()), int((~targets).sum())
    if positives == 0 or negatives == 0:
        return 1.0, 0.0
    wanted = np.where(targets, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logits, np.ones(len(logits))], axis=1)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = design @ parameters
        value = -(wanted * log_expit(z) + (1 - wanted) * log_expit(-z)).mean()
        return float(value), design.T @ (expit(z) - wanted) / len(z)

    def curvature(parameters: np.ndarray) -> np.ndarray:
        z = design @ parameters
        return np.asarray((design.T * (expit(z) * expit(-z))) @ design / len(z))

    start = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    options = {"gtol": 1e-10, "maxiter": 1000}
    found = scipy.optimize.minimize(loss, start, jac=True, hess=curvature, method="trust-exact", options=options).x
    return (float(found[0]), float(found[1])) if found[0] > 0 else (1.0, 0.0)


def _bin_sums(outcomes: np.ndarray, confidence: np.ndarray, *, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of rows, the sum of confidence and the number of right predictions in each bin, each [bins]."""
    if outcomes.shape != confidence.shape or outcomes.ndim != 1 or len(outcomes) == 0:
        raise DataError(
            f"Expected outcomes and their probabilities, both [rows], with one row or more, found "
            f"{list(outcomes.shape)} and {list(confidence.shape)}. Pass one probability for each outcome."
        )
    if not np.all((confidence >= 0) & (confidence <= 1)):
        raise DataError(
            f"Expected probabilities from 0 to 1, found {confidence.min():.4g} to {confidence.max():.4g}. Pass the "
            "softmax or the sigmoid of logits."
        )
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    sums, hits = (np.bincount(index, weights=each, minlength=bins) for each in (confidence, outcomes))
    return np.bincount(index, minlength=bins), sums, hits
