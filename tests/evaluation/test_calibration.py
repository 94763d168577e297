"""Calibration against scikit-learn, torch and MAPIE, in float64."""

import json

import numpy as np
import pytest
import torch
from mapie.metrics.calibration import expected_calibration_error, top_label_ece
from scipy.optimize import approx_fprime
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss

from nlptl.errors import ConfigError, DataError
from nlptl.evaluation.calibration import (
    Calibration,
    calibration_error,
    calibration_figures,
    describe_calibration,
    fit_platt,
    fit_temperature,
    fit_vector,
    reliability_bins,
)
from nlptl.evaluation.ordinal import median_class, scale_rank_odds


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose decision function is its input."""

    def __init__(self, num_labels: int = 2):
        self.num_labels = num_labels

    def fit(self, x, y):
        self.classes_ = np.arange(self.num_labels)
        self.n_features_in_ = x.shape[1]
        return self

    def decision_function(self, x):
        return x[:, 0] if self.num_labels == 2 else x

    def predict(self, x):
        return x[:, 0] > 0 if self.num_labels == 2 else x.argmax(axis=1)


def overconfident(num_rows: int, num_labels: int, *, sharpness: float = 4.0, seed: int = 0):
    """Return label ids that come true with softmax(logits), and the logits that many times too large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, num_labels)) * 1.5
    drawn = rng.random(num_rows)[:, None] > softmax(logits, axis=1).cumsum(axis=1)
    return drawn.sum(axis=1).clip(max=num_labels - 1), logits * sharpness


def sklearn_calibrated(method: str, targets: np.ndarray, values: np.ndarray, num_labels: int) -> np.ndarray:
    given = Given(num_labels).fit(values, targets)
    return CalibratedClassifierCV(FrozenEstimator(given), method=method).fit(values, targets).predict_proba(values)


@pytest.mark.parametrize("num_labels", [3, 7])
def test_temperature_is_that_of_scikit_learn(num_labels):
    targets, logits = overconfident(500, num_labels)
    found = fit_temperature(targets, logits, smoothing=0)
    expected = sklearn_calibrated("temperature", targets, logits, num_labels)
    np.testing.assert_allclose(softmax(found.apply(logits), axis=1), expected, atol=1e-7)
    assert 3 < found.temperature < 5.5


def test_temperature_of_two_labels_is_that_of_scikit_learn():
    targets, logits = overconfident(500, 2)
    found = fit_temperature(targets, logits, smoothing=0)
    # Its logits of two labels are (-x, x) of one decision value x.
    expected = sklearn_calibrated("temperature", targets, (logits[:, 1:] - logits[:, :1]) / 2, 2)
    np.testing.assert_allclose(softmax(found.apply(logits), axis=1), expected, atol=1e-7)


@pytest.mark.parametrize("num_rows", [1, 10, 49])
def test_few_rows_give_no_extreme_temperature(num_rows):
    """Rows that are all wrong ask for an infinite temperature, such as 2e4 where the search ends; few say little."""
    logits = np.tile([4.0, 0.0, 1.0], (num_rows, 1))
    assert fit_temperature(np.full(num_rows, 1), logits).temperature == pytest.approx(10, rel=1e-3)
    sure = np.tile([9.0, 0.0, 0.0], (num_rows, 1)) / 1e4
    assert fit_temperature(np.full(num_rows, 0), sure).temperature == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, None])
def test_no_other_temperature_is_better(smoothing):
    targets, logits = overconfident(300, 4, seed=1)
    share = 1 / 302 if smoothing is None else smoothing

    def loss(temperature: float) -> float:
        log_shares = log_softmax(logits / temperature, axis=1)
        own = log_shares[np.arange(300), targets]
        others = log_shares[np.arange(4) != targets[:, None]].reshape(300, 3)
        return -((1 - share) * own + share * logsumexp(others, axis=1)).mean()

    found = fit_temperature(targets, logits, smoothing=smoothing).temperature
    tried = np.exp(np.linspace(-1, 4, 2001))
    best = tried[np.argmin([loss(t) for t in tried])]
    assert abs(np.log(found / best)) <= 0.0025
    assert loss(found) <= min(loss(t) for t in tried)


def test_a_small_split_without_mistakes_gives_no_certainty():
    logits = np.array([[3.0, 0.0], [0.0, 2.0], [4.0, 0.0], [0.0, 3.0]])
    targets = np.array([0, 1, 0, 1])
    assert fit_temperature(targets, logits, smoothing=0).temperature < 0.05
    found = fit_temperature(targets, logits)
    assert 0.5 < found.temperature < 3
    np.testing.assert_allclose(softmax(found.apply(logits), axis=1)[np.arange(4), targets].mean(), 5 / 6, atol=0.05)


def test_temperature_does_not_change_what_is_predicted_nor_does_a_label_that_was_ruled_out():
    targets, logits = overconfident(200, 3)
    found = fit_temperature(targets, logits)
    np.testing.assert_array_equal(found.apply(logits).argmax(axis=1), logits.argmax(axis=1))
    # A label that no example of train has gets -1e30 by heads that scikit-learn fits.
    wider = np.concatenate([logits, np.full((200, 1), -1e30)], axis=1)
    assert fit_temperature(targets, wider).temperature == pytest.approx(found.temperature, rel=1e-6)
    unseen = np.append(targets[:-1], 3)
    fewer = fit_temperature(targets[:-1], logits[:-1], smoothing=0).temperature
    assert fit_temperature(unseen, wider, smoothing=0).temperature == pytest.approx(fewer, rel=1e-6)
    assert np.isfinite(fit_vector(unseen, wider).scales).all()
    assert fit_temperature(np.array([3]), wider[:1]).temperature == 1
    assert fit_vector(np.array([3]), wider[:1]).offsets == (0, 0, 0, 0)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_vector_scaling_is_the_optimum_that_torch_finds(prior):
    targets, logits = overconfident(400, 4)
    found = fit_vector(targets, logits, prior=prior)
    scales = torch.ones(4, dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [scales, offsets], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = torch.from_numpy(logits) * scales + offsets
        loss = torch.nn.functional.cross_entropy(scaled, torch.from_numpy(targets))
        loss = loss + prior * ((scales - 1).square().sum() + offsets.square().sum()) / 2 / len(targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = torch.softmax(torch.from_numpy(logits) * scales + offsets, dim=1).detach().numpy()
    np.testing.assert_allclose(softmax(found.apply(logits), axis=1), expected, atol=1e-6)


def test_vector_scaling_stays_finite_where_a_label_has_no_row():
    targets, logits = overconfident(100, 3)
    found = fit_vector(np.where(targets == 2, 0, targets), logits)
    assert max(np.abs(found.scales + found.offsets)) < 10


def test_platt_scaling_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 3)) * 4
    targets = (rng.random((400, 3)) < expit(logits / 3 - np.array([0, 1, 2]))).astype(np.int64)
    probabilities = expit(fit_platt(targets, logits).apply(logits))
    for i in range(3):
        expected = sklearn_calibrated("sigmoid", targets[:, i], logits[:, i : i + 1], 2)
        np.testing.assert_allclose(probabilities[:, i], expected[:, 1], atol=1e-4)  # where its optimizer stops


def test_platt_scaling_is_an_optimum():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=60) * 10
    targets = (rng.random(60) < expit(logits / 5)).astype(np.int64)
    found = fit_platt(targets[:, None], logits[:, None])
    positives = targets.sum()
    wanted = np.where(targets == 1, (positives + 1) / (positives + 2), 1 / (60 - positives + 2))

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] * logits + parameters[1]
        return -(wanted * log_expit(z) + (1 - wanted) * log_expit(-z)).mean()

    slopes = approx_fprime(np.array([found.scales[0], found.offsets[0]]), loss, 1e-7)
    np.testing.assert_allclose(slopes, 0, atol=1e-6)


def test_labels_that_say_nothing_keep_their_probabilities():
    logits = np.array([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0], [-1.0, 0.0, 0.5], [0.0, 1.0, 2.0]])
    targets = np.array([[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 1, 0]])  # never, always, and rather where logits are low
    assert fit_platt(targets, logits) == Calibration("platt", 1.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_calibration_error_and_bins_are_those_of_scikit_learn(bins):
    rng = np.random.default_rng(2)
    confidence, outcomes = rng.random(1000), rng.random(1000) < 0.4
    confidence[:3] = 0.0, 1.0, 1 / 5
    accuracy, mean = calibration_curve(outcomes, confidence, n_bins=bins)
    found = [each for each in reliability_bins(outcomes, confidence, bins=bins) if each["n"]]
    np.testing.assert_allclose([each["accuracy"] for each in found], accuracy, atol=1e-12)
    np.testing.assert_allclose([each["confidence"] for each in found], mean, atol=1e-12)
    shares = np.array([each["n"] for each in found]) / 1000
    expected = float((shares * np.abs(accuracy - mean)).sum())
    assert calibration_error(outcomes, confidence, bins=bins) == pytest.approx(expected, abs=1e-12)
    # MAPIE counts edges, and has a bin more for 0 itself.
    confidence[0] = 0.01
    expected = expected_calibration_error(outcomes, confidence, num_bins=bins + 1)
    assert calibration_error(outcomes, confidence, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_each_label_is_that_of_mapie():
    """Its error by predicted label is the mean over labels of what this one is on the rows that are so predicted."""
    targets, logits = overconfident(800, 3)
    probabilities = softmax(logits, axis=1)
    predicted = probabilities.argmax(axis=1)
    found = [
        calibration_error((predicted == targets)[predicted == i], probabilities.max(axis=1)[predicted == i], bins=10)
        for i in range(3)
    ]
    assert np.mean(found) == pytest.approx(top_label_ece(targets, probabilities, num_bins=11), abs=1e-12)


@pytest.mark.parametrize("num_labels", [2, 5])
def test_figures_are_those_of_scikit_learn(num_labels):
    targets, logits = overconfident(300, num_labels)
    probabilities = softmax(logits, axis=1)
    figures = calibration_figures(targets, probabilities)
    y_proba = probabilities[:, 1] if num_labels == 2 else probabilities
    assert figures["brier"] == pytest.approx(brier_score_loss(targets, y_proba), abs=1e-12)
    assert figures["log_loss"] == pytest.approx(log_loss(targets, probabilities), abs=1e-12)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    assert figures["ece"] == calibration_error(correct, confidence)


def test_figures_of_sets_of_labels_count_every_cell():
    rng = np.random.default_rng(3)
    probabilities = rng.random((50, 4))
    targets = (rng.random((50, 4)) < probabilities).astype(np.int64)
    figures = calibration_figures(targets, probabilities)
    assert figures["brier"] == pytest.approx(brier_score_loss(targets.ravel(), probabilities.ravel()), abs=1e-12)
    assert figures["log_loss"] == pytest.approx(log_loss(targets.ravel(), probabilities.ravel()), abs=1e-12)
    assert figures["ece"] == pytest.approx(calibration_error(targets.ravel(), probabilities.ravel()), abs=1e-12)


def test_what_is_described_is_strict_json():
    targets, logits = overconfident(100, 3)
    calibration = fit_temperature(targets, logits)
    before, after = softmax(logits, axis=1), softmax(calibration.apply(logits), axis=1)
    described = describe_calibration(targets, before, after, calibration=calibration)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["parameters"] == {"temperature": calibration.temperature}
    assert described["after"]["ece"] < described["before"]["ece"]
    bins = described["reliability"]["before"]
    assert (len(bins), sum(each["n"] for each in bins)) == (15, 100)
    assert bins[0] == {"low": 0.0, "high": pytest.approx(1 / 15), "n": 0, "confidence": None, "accuracy": None}


def test_scaled_odds_of_ranks():
    rng = np.random.default_rng(4)
    given = log_softmax(rng.normal(size=(200, 5)) * 3, axis=1)
    np.testing.assert_allclose(scale_rank_odds(given, 1.0), given, atol=1e-12)
    for temperature in (0.3, 2.5):
        scaled = np.exp(scale_rank_odds(given, temperature))
        above = np.exp(given)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        expected = expit(np.log(above / (1 - above)) / temperature)
        np.testing.assert_allclose(scaled[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:], expected, atol=1e-10)
        np.testing.assert_allclose(scaled.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_array_equal(median_class(scaled), median_class(np.exp(given)))
    far = scale_rank_odds(np.log(np.array([[1e-200, 1e-300, 1.0], [0.5, 1e-300, 0.5]])), 2.0)
    assert np.isfinite(far).all()
    two = log_softmax(rng.normal(size=(50, 2)), axis=1)
    np.testing.assert_allclose(scale_rank_odds(two, 3.0), log_softmax(two / 3, axis=1), atol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "temperature", "temperature": 0.0},
        {"method": "temperature", "temperature": float("nan")},
        {"method": "none", "temperature": 2.0},
        {"method": "temperature", "scales": (1.0,), "offsets": (0.0,)},
        {"method": "vector", "scales": (1.0,), "offsets": ()},
        {"method": "vector", "scales": (float("inf"),), "offsets": (0.0,)},
        {"method": "platt", "scales": (-1.0,), "offsets": (0.0,)},
        {"method": "platt"},
    ],
)
def test_numbers_that_are_no_calibration(values):
    with pytest.raises(ConfigError, match="Expected the finite numbers of one calibration"):
        Calibration(**values)


def test_inputs_that_do_not_fit():
    ids, logits = np.array([0, 1]), np.zeros((3, 2))
    for fit in (fit_temperature, fit_vector):
        with pytest.raises(DataError, match=r"found int64 of shape \[2\] and logits of shape \[3, 2\]"):
            fit(ids, logits)
    with pytest.raises(DataError, match=r"of one shape \[rows, labels\], found \[2\] and \[3, 2\]"):
        fit_platt(ids, logits)
    with pytest.raises(DataError, match=r"found \[0\] and \[0\]"):
        calibration_error(np.zeros(0), np.zeros(0))
    with pytest.raises(DataError, match="probabilities from 0 to 1, found 0.5 to 1.5"):
        calibration_error(np.zeros(2), np.array([0.5, 1.5]))
