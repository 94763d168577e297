"""Each regularizer against its formula, by another way of computing it, in float64."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, kl_divergence

from nlptl import ConfigError, TrainingConfig
from nlptl.training.regularizers import (
    add_l2_sp,
    check_regularizers,
    has_active_dropout,
    linear_weights,
    mixed_weights,
    perturbed,
    symmetric_divergence,
)

Tensors = dict[str, torch.Tensor]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class MixLinear(nn.Module):
    """Mixout as its authors wrote it: the mixed weight is computed in the forward pass; here autograd derives it."""

    def __init__(self, layer: nn.Linear, target: torch.Tensor, noise: torch.Tensor, p: float) -> None:
        super().__init__()
        self.layer, self.target, self.noise, self.p = layer, target, noise, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise, target = self.noise, self.target
        mixed = ((1 - noise) * target + noise * self.layer.weight - self.p * target) / (1 - self.p)
        return F.linear(x, mixed, self.layer.bias)


def build_network() -> tuple[nn.Sequential, Tensors]:
    """Return a network and pretrained values for the weights of its two linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.LayerNorm(30), nn.Linear(30, 3)).double()
    pretrained = {
        name: weight.detach() + 0.1 * random(*weight.shape) for name, weight in linear_weights(network).items()
    }
    return network, pretrained


def values(weights: dict[str, nn.Parameter]) -> Tensors:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def gradients(network: nn.Module) -> list[torch.Tensor]:
    found = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None for gradient in found)
    return found


def loss_of(network: nn.Module, rows: slice = slice(None)) -> torch.Tensor:
    inputs, labels = random(8, 40, seed=1), torch.arange(8) % 3
    return F.cross_entropy(network(inputs[rows]), labels[rows], reduction="sum") / 8


def masks_of(weights: dict[str, nn.Parameter], pretrained: Tensors, probability: float, *, key: int) -> Tensors:
    """Return for each weight which of its inputs, shape [in], have the pretrained values."""
    with mixed_weights(weights, pretrained, probability, key=key):
        return {name: (weight == pretrained[name]).all(dim=0) for name, weight in weights.items()}


def test_mixout_is_that_of_its_authors():
    network, pretrained = build_network()
    weights = linear_weights(network)
    assert weights.keys() == pretrained.keys() == {"0.weight", "3.weight"}
    own, masks = values(weights), masks_of(weights, pretrained, 0.7, key=5)
    layers = [
        MixLinear(network[i], pretrained[f"{i}.weight"], (~masks[f"{i}.weight"]).double(), 0.7) if i in (0, 3) else part
        for i, part in enumerate(network)
    ]
    reference_loss = loss_of(nn.Sequential(*layers))
    reference_loss.backward()
    reference = [gradient.clone() for gradient in gradients(network)]

    network.zero_grad()
    with mixed_weights(weights, pretrained, 0.7, key=5):
        loss = loss_of(network)
        loss.backward()
    torch.testing.assert_close(loss, reference_loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(network), reference, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(weight, own[name]) for name, weight in weights.items())


def test_a_split_step_has_the_same_mixout_gradient():
    network, pretrained = build_network()
    found = []
    for parts in ([slice(None)], [slice(0, 3), slice(3, 4), slice(4, 8)]):
        network.zero_grad()
        with mixed_weights(linear_weights(network), pretrained, 0.5, key=1):
            for rows in parts:
                loss_of(network, rows).backward()
        found.append([gradient.clone() for gradient in gradients(network)])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_the_key_decides_which_inputs_are_mixed():
    network, pretrained = build_network()
    weights = linear_weights(network)
    masks, again, others = (masks_of(weights, pretrained, 0.5, key=key) for key in (2**64 - 1, 2**64 - 1, 3))
    for name in weights:
        assert torch.equal(masks[name], again[name])
        assert not torch.equal(masks[name], others[name])
    assert not torch.equal(masks["0.weight"][:30], masks["3.weight"])


def test_the_mean_of_the_mixed_weights_is_the_own_weight():
    weights = {"weight": nn.Parameter(random(2, 3))}
    pretrained = {"weight": random(2, 3, seed=1)}
    total, count, num_pretrained = torch.zeros(2, 3, dtype=torch.float64), 4000, 0
    for key in range(count):
        with mixed_weights(weights, pretrained, 0.4, key=key):
            total += weights["weight"].detach()
            num_pretrained += int((weights["weight"] == pretrained["weight"]).all(dim=0).sum())
    assert num_pretrained / (3 * count) == pytest.approx(0.4, abs=0.02)
    torch.testing.assert_close(total / count, weights["weight"].detach(), rtol=0, atol=0.1)


def test_mixout_gives_the_weights_back_after_an_exception():
    network, pretrained = build_network()
    weights = linear_weights(network)
    own = values(weights)
    with pytest.raises(KeyboardInterrupt), mixed_weights(weights, pretrained, 0.5, key=0):
        raise KeyboardInterrupt
    assert all(torch.equal(weight, own[name]) for name, weight in weights.items())


def test_mixout_of_nothing_changes_nothing():
    network, pretrained = build_network()
    own = values(linear_weights(network))
    assert not any(mask.any() for mask in masks_of(linear_weights(network), pretrained, 0.0, key=0).values())
    for probability, target in ((0.0, pretrained), (0.9, own)):
        with mixed_weights(linear_weights(network), target, probability, key=0):
            torch.testing.assert_close(values(linear_weights(network)), own, rtol=1e-12, atol=1e-12)


def test_linear_weights_are_those_that_train():
    network, _ = build_network()
    network[0].requires_grad_(False)
    assert linear_weights(network).keys() == {"3.weight"}
    assert linear_weights(network)["3.weight"] is network[3].weight


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_l2_sp_is_the_gradient_of_the_penalty(scale: float):
    weights = {"weight": nn.Parameter(random(4, 3)), "bias": nn.Parameter(random(4)), "unused": nn.Parameter(random(2))}
    pretrained = {name: random(*weight.shape, seed=1) for name, weight in weights.items()}

    def loss() -> torch.Tensor:
        return F.linear(random(5, 3, seed=2), weights["weight"], weights["bias"]).square().sum()

    penalty = sum(((weight - pretrained[name]) ** 2).sum() for name, weight in weights.items())
    expected = torch.autograd.grad(scale * (loss() + 0.03 / 2 * penalty), list(weights.values()))

    (scale * loss()).backward()
    assert weights["unused"].grad is None
    add_l2_sp(weights, pretrained, 0.03, scale=scale)
    for weight, gradient in zip(weights.values(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e-8, 1.0, 300.0])
def test_the_divergence_is_that_of_torch(size: float):
    logits_a, logits_b = size * random(50, 4), size * random(50, 4, seed=1)
    log_a, log_b = logits_a.log_softmax(dim=-1), logits_b.log_softmax(dim=-1)
    divergence = symmetric_divergence(logits_a, logits_b)
    assert divergence.shape == (50,)
    assert (divergence >= 0).all()
    both = [F.kl_div(x, y, reduction="none", log_target=True).sum(-1) for x, y in ((log_a, log_b), (log_b, log_a))]
    torch.testing.assert_close(divergence, sum(both) / 2, rtol=1e-10, atol=1e-15)
    if size == 1:  # beyond, the distributions give infinity where a probability is too small
        a, b = Categorical(logits=logits_a), Categorical(logits=logits_b)
        torch.testing.assert_close(divergence, (kl_divergence(a, b) + kl_divergence(b, a)) / 2)


def test_the_divergence_of_heads_with_one_logit_is_that_of_the_sigmoid():
    z_a, z_b = random(20), random(20, seed=1)
    p_a, p_b = z_a.sigmoid(), z_b.sigmoid()
    expected = (p_a - p_b) * (z_a - z_b) / 2
    divergence = symmetric_divergence(F.pad(z_a[:, None], (1, 0)), F.pad(z_b[:, None], (1, 0)))
    torch.testing.assert_close(divergence, expected, rtol=1e-12, atol=1e-15)


def test_the_divergence_has_a_gradient_everywhere():
    logits_a, logits_b = random(3, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(symmetric_divergence, (logits_a, logits_b))
    far_a, far_b = (torch.tensor([[0.0, sign * 1e4]], requires_grad=True) for sign in (1, -1))
    divergence = symmetric_divergence(far_a, far_b)
    divergence.sum().backward()
    assert divergence.item() == pytest.approx(1e4)
    assert torch.isfinite(far_a.grad).all()
    same = random(3, 4).requires_grad_()
    symmetric_divergence(same, same.detach()).sum().backward()
    assert torch.equal(same.grad, torch.zeros_like(same))


def build_embeddings() -> tuple[nn.Parameter, torch.Tensor]:
    return nn.Parameter(random(6, 3)), random(3, 2, seed=1)


def loss_of_embeddings(table: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((table[torch.tensor([0, 1, 1, 4])] @ matrix).tanh(), torch.tensor([0, 1, 1, 0]))


def test_the_adversarial_gradient_is_computed_at_the_perturbed_embeddings():
    table, matrix = build_embeddings()
    own = table.detach().clone()
    (gradient,) = torch.autograd.grad(loss_of_embeddings(table, matrix), table)
    moved = (own + 0.5 * gradient / gradient.square().sum().sqrt()).requires_grad_()
    adversarial_loss = loss_of_embeddings(moved, matrix)
    (adversarial,) = torch.autograd.grad(adversarial_loss, moved)

    loss = loss_of_embeddings(table, matrix)
    loss.backward()
    with perturbed(table, 0.5):
        torch.testing.assert_close(table.detach(), moved.detach(), rtol=1e-12, atol=1e-12)
        assert torch.linalg.vector_norm(table.detach() - own).item() == pytest.approx(0.5)
        assert torch.equal(table[[2, 3, 5]], own[[2, 3, 5]])  # of words that do not occur
        loss_of_embeddings(table, matrix).backward()
    assert torch.equal(table, own)
    assert adversarial_loss > loss
    torch.testing.assert_close(table.grad, gradient + adversarial, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [None, 0.0, float("inf"), float("nan")])
def test_without_a_usable_gradient_nothing_moves(value: float | None):
    table, _ = build_embeddings()
    own = table.detach().clone()
    table.grad = None if value is None else torch.full_like(table, value)
    with perturbed(table, 0.5):
        assert torch.equal(table, own)
    assert torch.equal(table, own)


def test_the_embeddings_come_back_after_an_exception():
    table, matrix = build_embeddings()
    own = table.detach().clone()
    loss_of_embeddings(table, matrix).backward()
    with pytest.raises(KeyboardInterrupt), perturbed(table, 0.5):
        raise KeyboardInterrupt
    assert torch.equal(table, own)


def test_dropout_counts_where_it_is_active():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.1)), nn.Dropout(0.0))
    assert has_active_dropout(network.train())
    network[1].eval()
    assert not has_active_dropout(network)
    assert not has_active_dropout(nn.Linear(2, 2))


EVERYTHING = {
    "trains_encoder": True,
    "trains_linear": True,
    "trains_word_embeddings": True,
    "has_dropout": True,
    "has_adapters": False,
}
FROZEN = {"trains_encoder": False, "trains_linear": False, "trains_word_embeddings": False}
ADAPTED = FROZEN | {"has_adapters": True}


@pytest.mark.parametrize(
    ("settings", "facts", "message"),
    [
        ({"mixout": 0.5}, FROZEN, "train for --mixout, found all of them frozen. Pass --freeze nothing without"),
        ({"l2_sp": 0.1}, FROZEN, "train for --l2-sp, found all of them frozen. Pass --freeze nothing without"),
        ({"wise_ft": 0.5}, FROZEN, "train for --wise-ft, found all of them frozen. Pass --freeze nothing without"),
        ({"wise_ft": 0.0}, FROZEN, "or leave --wise-ft out."),
        ({"mixout": 0.5}, ADAPTED, "train for --mixout, found low-rank updates in their place. Leave --lora-rank out"),
        ({"l2_sp": 0.1}, ADAPTED, "train for --l2-sp, found low-rank updates in their place. Leave --lora-rank out"),
        ({"wise_ft": 1.0}, ADAPTED, "train for --wise-ft, found low-rank updates in their place."),
        ({"mixout": 0.5}, {"trains_linear": False}, "linear layers of the encoder whose weights train for --mixout"),
        ({"fgm": 1.0}, {"trains_word_embeddings": False}, "follows their gradient, found them frozen. Pass --freeze"),
        ({"fgm": 1.0}, ADAPTED, "found them frozen. Leave --lora-rank out, or leave --fgm out."),
        ({"r_drop": 1.0}, {"has_dropout": False}, "found none. Pass --dropout 0.1, or leave --r-drop out."),
    ],
)
def test_what_cannot_apply_is_refused(settings: dict[str, float], facts: dict[str, bool], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_regularizers(TrainingConfig(**settings), **EVERYTHING | facts)


def test_everything_that_cannot_apply_is_named_at_once():
    config = TrainingConfig(mixout=0.5, l2_sp=0.1, wise_ft=0.5, fgm=1.0, r_drop=1.0)
    with pytest.raises(ConfigError) as caught:
        check_regularizers(config, **EVERYTHING | FROZEN | {"has_dropout": False})
    for flag in ("--mixout", "--l2-sp", "--wise-ft", "--fgm", "--r-drop"):
        assert str(caught.value).count(f"for {flag}") == 1
    check_regularizers(config, **EVERYTHING)


@pytest.mark.parametrize("facts", [FROZEN, ADAPTED, {"has_dropout": False}])
def test_without_regularizers_nothing_is_refused(facts: dict[str, bool]):
    check_regularizers(TrainingConfig(ema_decay=0.9), **EVERYTHING | facts)
