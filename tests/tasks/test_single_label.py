"""Losses and probabilities against torch and scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from nlptl.tasks.single_label import SingleLabel, example_losses, weights_of_classes


@pytest.fixture
def logits():
    return torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def labels():
    return torch.arange(20) % 4


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_softmax_loss_is_that_of_torch(label_smoothing, logits, labels):
    losses = example_losses(logits, labels, label_smoothing=label_smoothing)
    assert losses.shape == (20,)
    assert losses.mean() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=label_smoothing).item())


def test_softmax_loss_is_that_of_scikit_learn(logits, labels):
    shares = logits.softmax(dim=-1).numpy()
    assert example_losses(logits, labels).mean() == pytest.approx(log_loss(labels.numpy(), shares))


def test_smoothing_is_the_cross_entropy_of_smoothed_targets(logits, labels):
    targets = F.one_hot(labels, 4) * 0.7 + 0.3 / 4
    expected = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)
    torch.testing.assert_close(example_losses(logits, labels, label_smoothing=0.3), expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_sigmoid_loss_is_that_of_torch_and_of_softmax_over_zero_and_z(label_smoothing, logits, labels):
    logits, labels = F.pad(logits[:, :1], (1, 0)), labels % 2
    losses = example_losses(logits, labels, binary_loss="sigmoid", label_smoothing=label_smoothing)
    targets = labels.double() * (1 - label_smoothing) + label_smoothing / 2
    expected = F.binary_cross_entropy_with_logits(logits[:, 1], targets, reduction="none")
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(losses, example_losses(logits, labels, label_smoothing=label_smoothing))
    torch.testing.assert_close(logits.softmax(dim=-1)[:, 1], logits[:, 1].sigmoid())


def test_sigmoid_loss_leaves_the_first_logit_alone(logits, labels):
    logits = logits[:, :2].clone().requires_grad_()
    example_losses(logits, labels % 2, binary_loss="sigmoid").sum().backward()
    assert torch.equal(logits.grad[:, 0], torch.zeros(20, dtype=torch.float64))
    assert logits.grad[:, 1].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_probabilities_are_float64_and_sum_to_one(dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.5, 0.25, 0.0]], dtype=dtype)
    shares = SingleLabel(("a", "b", "c")).outputs(logits)
    assert shares.dtype == np.float64
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-15)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_mean_of_weighted_losses_is_that_of_torch(label_smoothing, logits, labels):
    weights = torch.linspace(0.5, 3, logits.shape[1], dtype=logits.dtype)
    losses = example_losses(logits, labels, label_smoothing=label_smoothing, class_weights=weights)
    expected = F.cross_entropy(logits, labels, weight=weights, label_smoothing=label_smoothing)
    torch.testing.assert_close(losses.sum() / weights[labels].sum(), expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_weighted_sigmoid_loss_is_that_of_softmax_over_zero_and_z(label_smoothing, logits, labels):
    settings = {"label_smoothing": label_smoothing, "class_weights": torch.tensor([0.4, 3.0], dtype=logits.dtype)}
    logits, labels = torch.stack([torch.zeros_like(logits[:, 1]), logits[:, 1]], dim=1), labels % 2
    found = example_losses(logits, labels, binary_loss="sigmoid", **settings)
    torch.testing.assert_close(found, example_losses(logits, labels, **settings))


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0, 0, 0, 2, 2, 3])
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    weights = weights_of_classes("balanced", labels, num_labels=5)
    np.testing.assert_array_equal(weights, [expected[0], 1, expected[1], expected[2], 1])
    np.testing.assert_array_equal(weights_of_classes((1.0, 2.0), labels, num_labels=2), [1.0, 2.0])
    assert weights_of_classes(None, labels, num_labels=2) is None
