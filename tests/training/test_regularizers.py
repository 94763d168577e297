"""Each regularizer against its formula, by another way of computing it, in float64."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, kl_divergence

from nlptl import ConfigError, TrainingConfig
from nlptl.training.regularizers import check_regularizers, has_active_dropout, symmetric_divergence


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def test_dropout_counts_where_it_is_active():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.1)), nn.Dropout(0.0))
    assert has_active_dropout(network.train())
    network[1].eval()
    assert not has_active_dropout(network)
    assert not has_active_dropout(nn.Linear(2, 2))


EVERYTHING = {"trains_encoder": True, "has_dropout": True, "has_adapters": False}
FROZEN = {"trains_encoder": False}
ADAPTED = FROZEN | {"has_adapters": True}


@pytest.mark.parametrize(
    ("settings", "facts", "message"),
    [
        ({"wise_ft": 0.5}, FROZEN, "train for --wise-ft, found all of them frozen. Pass --freeze nothing without"),
        ({"wise_ft": 0.0}, FROZEN, "or leave --wise-ft out."),
        ({"wise_ft": 1.0}, ADAPTED, "for --wise-ft, found low-rank updates in their place. Leave --lora-rank out"),
        ({"r_drop": 1.0}, {"has_dropout": False}, "found none. Pass --dropout 0.1, or leave --r-drop out."),
    ],
)
def test_what_cannot_apply_is_refused(settings: dict[str, float], facts: dict[str, bool], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_regularizers(TrainingConfig(**settings), **EVERYTHING | facts)


def test_everything_that_cannot_apply_is_named_at_once():
    config = TrainingConfig(wise_ft=0.5, r_drop=1.0)
    with pytest.raises(ConfigError) as caught:
        check_regularizers(config, **EVERYTHING | FROZEN | {"has_dropout": False})
    for flag in ("--wise-ft", "--r-drop"):
        assert str(caught.value).count(f"for {flag}") == 1
    check_regularizers(config, **EVERYTHING)


@pytest.mark.parametrize("facts", [FROZEN, ADAPTED, {"has_dropout": False}])
def test_without_regularizers_nothing_is_refused(facts: dict[str, bool]):
    check_regularizers(TrainingConfig(ema_decay=0.9), **EVERYTHING | facts)
