"""R-Drop against its formula, by another way of computing it, in float64."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from nlptl import ConfigError, TrainingConfig
from nlptl.training.regularizers import check_r_drop, symmetric_divergence


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


@pytest.mark.parametrize(("freeze", "is_refused"), [("nothing", False), ("encoder", True)])
def test_dropout_counts_where_it_is_active(freeze: str, is_refused: bool, build_model):
    model = build_model(freeze=freeze)
    in_encoder = set(model.network.base_model.modules())
    for module in set(model.network.modules()) - in_encoder:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    modes = [module.training for module in model.modules()]
    with pytest.raises(ConfigError, match="nothing that trains has dropout") if is_refused else nullcontext():
        check_r_drop(model, TrainingConfig(r_drop=1.0))
    check_r_drop(model, TrainingConfig())
    assert [module.training for module in model.modules()] == modes
