"""Linear layers through oneDNN and dropout from 16 bits give what torch's own give, where they are asked to."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn

from nlptl.model import quick
from nlptl.model.quick import drop, quick_layers

with_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 32, bias=False))


@with_onednn
@pytest.mark.parametrize("shape", [(5, 48), (2, 7, 48), (1, 1, 48), (0, 48)])
def test_linear_layers_by_onednn(shape, network, monkeypatch):
    monkeypatch.setattr(quick, "prefers_onednn", lambda: True)
    stock = copy.deepcopy(network).double()
    strided = torch.randn(shape[-1], *shape[:-1]).movedim(0, -1)
    for features in (torch.randn(shape), strided):
        results = []
        for each, kind in ((stock, torch.float64), (network, torch.float32)):
            each.zero_grad()
            given = features.to(kind).detach().requires_grad_()
            with quick_layers(each):
                assert ("forward" in each[0].__dict__) is (kind == torch.float32)
                output = each(given)
            (output * torch.linspace(0, 1, output.numel()).view(output.shape)).sum().backward()
            results.append([output, given.grad, *(parameter.grad for parameter in each.parameters())])
        for expected, found in zip(*results, strict=True):
            torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    assert "forward" not in network[0].__dict__
    assert network[0].forward.__func__ is nn.Linear.forward


@with_onednn
def test_what_is_frozen_gets_no_gradient_and_half_precision_is_torchs(network, monkeypatch):
    monkeypatch.setattr(quick, "prefers_onednn", lambda: True)
    network[0].requires_grad_(False)
    with quick_layers(network):
        network(torch.randn(3, 48)).sum().backward()
        assert [parameter.grad is None for parameter in network.parameters()] == [True, True, False]
        with torch.autocast("cpu", torch.bfloat16):
            assert network(torch.randn(3, 48)).dtype == torch.bfloat16
        with quick_layers(network):  # as an evaluation inside a training
            pass
        assert "forward" in network[0].__dict__
        assert network.bfloat16()(torch.randn(3, 48).bfloat16()).dtype == torch.bfloat16
    assert not any("forward" in module.__dict__ for module in network.modules())


def test_other_types_and_other_machines_are_left_alone(network, monkeypatch):
    for wanted, dtype in ((True, torch.float64), (False, torch.float32)):
        monkeypatch.setattr(quick, "prefers_onednn", lambda wanted=wanted: wanted)
        with quick_layers(network.to(dtype)):
            assert not any("forward" in module.__dict__ for module in network.modules())


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_drops_as_many_and_scales_the_rest(probability):
    torch.manual_seed(0)
    states = torch.rand(1001, 999) + 1
    states.requires_grad_()
    dropped = drop(states, probability)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], states[kept] / (1 - probability), rtol=1e-4, atol=0)
    test = stats.binomtest(int((~kept).sum()), kept.numel(), probability)
    assert test.pvalue > 0.001
    for neighbors in (kept[:, 1:] == kept[:, :-1], kept[1:] == kept[:-1]):  # which the noise does not know of
        share = probability**2 + (1 - probability) ** 2
        assert abs(float(neighbors.double().mean()) - share) < 0.003
    dropped.sum().backward()
    torch.testing.assert_close(states.grad, torch.where(kept, 1 / (1 - probability), 0.0), rtol=1e-4, atol=0)
    torch.manual_seed(0)
    torch.rand(1001, 999)
    assert torch.equal(drop(states, probability), dropped)
    assert not torch.equal(drop(states, probability), dropped)


@pytest.mark.parametrize("probability", [0.0, 1e-9, 1.0])
def test_dropout_at_its_ends_is_torchs(probability):
    states = torch.ones(7, 3)
    assert torch.equal(drop(states, probability), nn.functional.dropout(states, probability))


def test_dropout_layers_are_quick_in_training_alone():
    layer = nn.Dropout(0.5)
    states = torch.ones(100, 3)
    with quick_layers(layer):
        assert set(layer(states).unique().tolist()) == {0.0, 2.0}
        assert torch.equal(layer.eval()(states), states)
    assert "forward" not in layer.__dict__
