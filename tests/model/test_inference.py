"""Linear layers through oneDNN give what torch's own give, and only where they were asked to; texts over processes."""

import numpy as np
import pytest
import torch
from torch import nn

from nlptl.model import inference
from nlptl.model.inference import map_rows, prefers_onednn, quick_linears


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 32, bias=False))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
@pytest.mark.parametrize("shape", [(5, 48), (2, 7, 48)])
def test_linear_layers_by_onednn(shape, network, monkeypatch):
    monkeypatch.setattr(inference, "prefers_onednn", lambda: True)
    features = torch.randn(shape)
    with torch.no_grad():
        expected = network(features)
        strided = network(torch.randn(shape[-1], *shape[:-1]).movedim(0, -1))
        with quick_linears(network):
            assert network[0].forward.func is inference._linear_by_onednn
            torch.testing.assert_close(network(features), expected, rtol=1e-5, atol=1e-6)
            assert network(torch.randn(shape[-1], *shape[:-1]).movedim(0, -1)).shape == strided.shape
            bfloat = network.bfloat16()(features.bfloat16())
        assert bfloat.dtype == torch.bfloat16
    assert "forward" not in network[0].__dict__
    assert network[0].forward.__func__ is nn.Linear.forward


def test_other_types_and_other_machines_are_left_alone(network, monkeypatch):
    for wanted, dtype in ((True, torch.float64), (False, torch.float32)):
        monkeypatch.setattr(inference, "prefers_onednn", lambda wanted=wanted: wanted)
        with quick_linears(network.to(dtype)):
            assert not any("forward" in module.__dict__ for module in network.modules())


def test_the_rule_is_about_the_vendor(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for vendor, expected in (("GenuineIntel", False), ("AuthenticAMD", True)):
        monkeypatch.setattr(inference.Path, "is_file", lambda path: True)
        monkeypatch.setattr(inference.Path, "read_text", lambda path, vendor=vendor: f"vendor_id : {vendor}\n")
        assert prefers_onednn.__wrapped__() is expected


@pytest.mark.parametrize("in_step", [False, True])
def test_processes_in_step_call_equally_often(in_step, monkeypatch):
    monkeypatch.setattr(inference, "CPU_TOKENS", 10)
    lengths = np.array([9, 2, 8, 2, 7, 2, 6])
    num_calls, num_rows, total = [], [], torch.zeros(7, 1)
    for process in range(4):
        calls = []

        def rows_as_numbers(rows, calls=calls):
            calls.append(rows)
            return torch.from_numpy(rows)[:, None].float()

        results, counts = map_rows(
            rows_as_numbers, lengths, device=torch.device("cpu"), process=process, num_processes=4, in_step=in_step
        )
        total += results
        num_calls.append(len(calls))
        num_rows.append(int(counts.sum()))
    assert total.flatten().tolist() == list(range(7))
    assert sum(num_rows) == 7
    assert len({*num_calls}) == (1 if in_step else 2)
