"""Averages of weights against torch's own, hand loops and the formula."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nlptl.errors import UntrustedFileError
from nlptl.training.averaging import MovingAverage, restored


def build_weights(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"dense.weight": (4, 3), "dense.bias": (4,), "norm.weight": (3,)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in shapes.items()
    }


def step(weights: dict[str, nn.Parameter], i: int) -> None:
    generator = torch.Generator().manual_seed(1000 + i)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))


def values(weights: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def assert_equal(tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_the_average_is_that_of_torch():
    linear = nn.Linear(3, 2).double()
    weights = dict(linear.named_parameters())
    decay = 0.09  # below the first value of the rising decay, so that it is constant as torch's is
    average, reference = MovingAverage(weights, decay), AveragedModel(linear, multi_avg_fn=get_ema_multi_avg_fn(decay))
    reference.update_parameters(linear)  # takes the first values
    for i in range(5):
        step(weights, i)
        average.update()
        reference.update_parameters(linear)
    assert_equal(average.tensors(), values(dict(reference.module.named_parameters())))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_decay_rises_to_its_value(decay: float):
    weights = build_weights()
    average, expected = MovingAverage(weights, decay), values(weights)
    for t in range(12):
        step(weights, t)
        average.update()
        now = min(decay, (1 + t) / (10 + t))
        expected = {name: now * expected[name] + (1 - now) * weight.detach() for name, weight in weights.items()}
    assert average.num_updates == 12
    for name, tensor in average.tensors().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


def test_the_average_takes_the_place_of_the_weights_for_a_while():
    weights = build_weights()
    average = MovingAverage(weights, 0.9)
    step(weights, 0)
    average.update()
    own, averages = values(weights), {name: tensor.clone() for name, tensor in average.tensors().items()}
    with average.applied():
        assert_equal(values(weights), averages)
    assert_equal(values(weights), own)
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    assert_equal(values(weights), own)
    assert_equal(average.tensors(), averages)


def test_a_loaded_average_goes_on_to_the_same_bits():
    weights = build_weights()
    average = MovingAverage(weights, 0.99)
    for i in range(7):
        if i == 3:
            saved, at_3 = {name: tensor.clone() for name, tensor in average.tensors().items()}, values(weights)
        step(weights, i)
        average.update()

    others = build_weights(seed=1)
    resumed = MovingAverage(others, 0.99)
    with torch.no_grad():
        for name, weight in others.items():
            weight.copy_(at_3[name])
    resumed.load(saved, num_updates=3)
    for i in range(3, 7):
        step(others, i)
        resumed.update()
    assert_equal(resumed.tensors(), average.tensors())
    assert not torch.equal(resumed.tensors()["dense.bias"], saved["dense.bias"])


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_averages_of_other_weights_are_refused(change: str):
    average = MovingAverage(build_weights(), 0.99)
    tensors = {name: tensor.clone() for name, tensor in average.tensors().items()}
    if change == "missing":
        del tensors["dense.bias"]
    elif change == "unknown":
        tensors["dense.bias2"] = torch.zeros(4)
    else:
        tensors["dense.bias"] = torch.zeros(5)
    before = {name: tensor.clone() for name, tensor in average.tensors().items()}
    with pytest.raises(UntrustedFileError, match=r"averages of 3 tensors .* such as dense\.bias.* --ema-decay"):
        average.load(tensors, num_updates=1)
    assert_equal(average.tensors(), before)


def test_weights_are_restored_bit_for_bit():
    weights = build_weights()
    with torch.no_grad():
        weights["dense.bias"][0], weights["dense.bias"][1] = -0.0, 5e-324
    own = values(weights)
    with restored(weights.values()), torch.no_grad():
        for weight in weights.values():
            weight.fill_(float("nan"))
    assert_equal(values(weights), own)
    assert torch.signbit(weights["dense.bias"][0])
    assert all(weight.requires_grad and weight.is_leaf for weight in weights.values())
