"""Faster ways to compute on a CPU: matrix products where MKL is slow, and the noise of dropout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@contextmanager
def quick_layers(model: nn.Module) -> Iterator[None]:
    """Within it, linear layers and dropout in float32 on a CPU take a faster way, where there is one.

    MKL takes a slow path on CPUs with AVX-512 that are not Intel's; oneDNN, which torch has beside it, multiplies twice
    as fast on such an AMD EPYC. On one without AVX-512, MKL is the faster one. Results agree up to rounding. Dropout
    draws other noise than torch's would be. A model whose `is_quick` is False is left as it is.

    It replaces methods of the modules, so that only one thread at a time may do this and run the model.
    """
    swapped: list[nn.Module] = []
    try:
        for module, forward in _quick_forwards(model):
            swapped.append(module)
            module.forward = forward
        yield
    finally:
        for module in swapped:
            module.__dict__.pop("forward", None)


def _quick_forwards(model: nn.Module) -> Iterator[tuple[nn.Module, Callable[..., torch.Tensor]]]:
    """Yield the modules whose forward method there is a faster one for, and that method."""
    if not getattr(model, "is_quick", True) or not (model.training or prefers_onednn()):
        return
    for module in model.modules():
        if "forward" in module.__dict__:  # as where one of these is inside another
            continue
        if type(module) is nn.Linear and _is_slow(module.weight) and prefers_onednn():
            yield module, partial(_linear_layer, module)
        elif type(module) is nn.Dropout and module.training:
            yield module, partial(_dropout_layer, module)


@cache
def prefers_onednn() -> bool:
    """Whether torch multiplies matrices by MKL here, has oneDNN, and MKL is slow on this CPU."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    cpuinfo = Path("/proc/cpuinfo")
    if not has_both or not cpuinfo.is_file():
        return False
    about = cpuinfo.read_text()
    return "avx512f" in about and "GenuineIntel" not in about


def drop(states: torch.Tensor, probability: float) -> torch.Tensor:
    """Return `states` with some entries zero and the others scaled, as dropout does, from 16 random bits for each.

    torch draws 32 bits or more for each; the probability is rounded to 1/65536. That is for a CPU alone.
    """
    dropped = round(probability * 2**16)
    if states.device.type != "cpu" or not 0 < dropped < 2**16:
        return F.dropout(states, probability)
    count = states.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    is_kept = bits.view(torch.int16)[:count].view(states.shape) >= dropped - 2**15
    # One byte is kept of each entry, where torch keeps four; products with bytes are quicker than with truth values.
    left: torch.Tensor = _Drop.apply(states, is_kept.view(torch.uint8), 2**16 / (2**16 - dropped))
    return left


class _Drop(torch.autograd.Function):
    """Entries scaled where `is_kept` is 1, and zero where it is 0."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, is_kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(is_kept)
        ctx.scale = scale
        return (states * is_kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return (grads[0] * ctx.saved_tensors[0]).mul_(ctx.scale), None, None


class _Linear(torch.autograd.Function):
    """Y = X W' + b, and its gradients, by oneDNN; X is [rows, width]."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(features, weight)
        return _multiply(features, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,), (features, weight) = grads, ctx.saved_tensors
        needs_features, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _multiply(grad, weight.t()) if needs_features else None,
            _multiply(grad.t(), features.t()) if needs_weight else None,
            grad.sum(dim=0) if needs_bias else None,
        )


def _multiply(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(features, weight, bias, "none", [], "")
    return product


def _is_slow(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.device.type == "cpu"


def _linear_layer(layer: nn.Linear, features: torch.Tensor) -> torch.Tensor:
    if features.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or features.numel() == 0:
        return F.linear(features, layer.weight, layer.bias)
    rows: torch.Tensor = _Linear.apply(features.flatten(0, -2), layer.weight, layer.bias)
    return rows.view(*features.shape[:-1], -1)


def _dropout_layer(layer: nn.Dropout, states: torch.Tensor) -> torch.Tensor:
    if not layer.training or layer.inplace:
        return F.dropout(states, layer.p, layer.training, layer.inplace)
    return drop(states, layer.p)
