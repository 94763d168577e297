"""Losses against their formulas in numpy, against torch, and at the edges of what a float holds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nlptl.tasks.losses import (
    adjust_logits,
    binary_losses,
    conditional_log_probabilities,
    focal_losses,
    num_conditions,
)


def random_logits(rows=20, columns=5, seed=0):
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


LABELS = torch.arange(20) % 5
TARGETS = (random_logits(seed=1) > 1).double()
WEIGHTS = torch.linspace(0.5, 3, 5, dtype=torch.float64)
EXTREME = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [1e4, 0.0, 0.0]])
BINARY = [
    {},
    {"gamma_negative": 4.0, "gamma_positive": 1.0},
    {"gamma_negative": 0.5, "gamma_positive": 2.0, "clip": 0.05},
    {"clip": 0.2},
]


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.numpy()))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_formula(gamma, weights):
    logits = random_logits()
    shares = np.exp(logits.numpy())
    p = (shares / shares.sum(axis=1, keepdims=True))[np.arange(20), LABELS]
    alpha = 1.0 if weights is None else weights.numpy()[LABELS]
    found = focal_losses(logits, LABELS, gamma=gamma, class_weights=weights)
    np.testing.assert_allclose(found, -alpha * (1 - p) ** gamma * np.log(p), rtol=1e-10)
    if gamma == 0:
        torch.testing.assert_close(found, F.cross_entropy(logits, LABELS, weight=weights, reduction="none"))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("settings", BINARY)
def test_binary_loss_is_its_formula(settings, weights):
    logits, targets = random_logits(), TARGETS.numpy()
    p = sigmoid(logits)
    q = np.maximum(p - settings.get("clip", 0), 0)
    present = -((1 - p) ** settings.get("gamma_positive", 0)) * np.log(p)
    absent = -(q ** settings.get("gamma_negative", 0)) * np.log(1 - q)
    losses = np.where(targets == 1, present, absent) * (1 if weights is None else weights.numpy())
    found = binary_losses(logits, TARGETS, label_weights=weights, **settings)
    np.testing.assert_allclose(found, losses.mean(axis=1), rtol=1e-10)


@pytest.mark.parametrize("targets", [TARGETS, TARGETS.bool(), TARGETS * 0.8 + 0.1])
def test_binary_loss_without_settings_is_that_of_torch(targets):
    logits = random_logits()
    found = binary_losses(logits, targets, label_weights=WEIGHTS).mean()
    torch.testing.assert_close(found, torch.nn.BCEWithLogitsLoss(weight=WEIGHTS)(logits, targets.double()))


def test_a_clipped_label_costs_nothing_and_gives_no_gradient():
    logits = torch.tensor([[-1.0, 0.0, 1.0]], requires_grad=True)
    binary_losses(logits, torch.zeros(1, 3), gamma_negative=0.5, clip=0.5).sum().backward()
    assert logits.grad[0, :2].tolist() == [0, 0]
    assert logits.grad[0, 2] > 0


def test_adjusted_logits_weigh_classes_by_their_prior():
    logits, priors, tau = random_logits(), np.array([0.4, 0.3, 0.2, 0.05, 0.05]), 1.5
    scores = priors**tau * np.exp(logits.numpy())
    expected = -np.log(scores[np.arange(20), LABELS] / scores.sum(axis=1))
    adjusted = adjust_logits(logits, torch.tensor(priors).log(), tau)
    np.testing.assert_allclose(F.cross_entropy(adjusted, LABELS, reduction="none"), expected, rtol=1e-10)


def test_conditional_probabilities_are_products_and_sum_to_one():
    scores = random_logits(columns=4)
    p = sigmoid(scores)
    found = conditional_log_probabilities(scores)
    expected = [p[:, :j].prod(axis=1) * (1 - p[:, j] if j < 4 else 1) for j in range(5)]
    np.testing.assert_allclose(found.exp(), np.stack(expected, axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.exp().sum(dim=1), 1, rtol=1e-12)


@pytest.mark.parametrize("labels", [LABELS, torch.zeros(20, dtype=torch.int64), torch.full((20,), 4)])
def test_the_mean_over_conditions_is_the_loss_of_corn(labels):
    scores = random_logits(columns=4)
    p, y = sigmoid(scores), labels.numpy()
    # Task by task, as in the paper: the examples of rank k or more, and whether they are above k.
    losses = [-np.log(np.where(y > k, p[:, k], 1 - p[:, k]))[y >= k] for k in range(4)]
    expected = sum(loss.sum() for loss in losses) / sum(len(loss) for loss in losses)

    of_labels = conditional_log_probabilities(scores)[torch.arange(20), labels]
    assert num_conditions(labels, 5).sum() == sum(len(loss) for loss in losses)
    assert -of_labels.sum() / num_conditions(labels, 5).sum() == pytest.approx(expected, rel=1e-12)


def losses_of(name, settings):
    """Return a loss of logits [rows, 3] by name."""
    if name == "focal":
        return lambda logits: focal_losses(logits, torch.arange(len(logits)) % 3, **settings)
    if name == "binary":
        return lambda logits: binary_losses(logits, torch.tensor([[1.0, 0.0, 1.0]]).expand_as(logits), **settings)
    return conditional_log_probabilities


LOSSES = [
    *(("focal", {"gamma": gamma}) for gamma in (0.0, 0.5, 2.0)),
    *(("binary", settings) for settings in BINARY),
    ("corn", {}),
]


@pytest.mark.parametrize(("name", "settings"), LOSSES)
def test_gradients_are_those_of_differences(name, settings):
    logits = random_logits(6, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(losses_of(name, settings), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "settings"), LOSSES)
def test_extreme_logits_have_finite_losses_and_gradients(name, settings, dtype):
    logits = torch.cat([EXTREME, -EXTREME]).to(dtype).requires_grad_()
    losses = losses_of(name, settings)(logits)
    losses.sum().backward()
    assert losses.dtype == dtype
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()
