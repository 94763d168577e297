"""What keeps a large encoder from overfitting a small data set, each a part of one optimizer step.

The parts of a step, in this order: the passes over its micro-batches, and those over perturbed embeddings, inside
`mixed_weights`; `add_l2_sp`; the clipping of gradients. But for the noise of dropout, the split of the step
changes nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.errors import ConfigError
from nlptl.training.averaging import restored


@contextmanager
def mixed_weights(
    weights: Mapping[str, nn.Parameter], pretrained: Mapping[str, torch.Tensor], probability: float, *, key: int
) -> Iterator[None]:
    """Mix pretrained values into the weights of linear layers for one step.

    This is mixout (Lee, Cho and Kang 2020, arXiv:1909.11299) with masks as in the authors' MixLinear: all weights
    that leave an input are the pretrained ones w0 with this probability p, and else (w - p * w0) / (1 - p), so that
    the mean over masks is w. Afterwards the weights are what they were, and the gradients those with respect to them.

    Args:
        weights: What is mixed, by name, each [out, in]. They have no gradient yet.
        pretrained: Values to mix in, by name.
        probability: At least 0 and below 1.
        key: Seeds the masks, which are the same on every device.
    """
    generator = torch.Generator().manual_seed(key)
    slopes = {}  # of the mixed weights in the own ones
    with restored(weights.values()):
        with torch.no_grad():
            for name, weight in weights.items():
                is_own = torch.rand(weight.shape[1], generator=generator, dtype=torch.float64) >= probability
                slopes[name] = (is_own.to(weight.dtype) / (1 - probability)).to(weight.device)
                weight.copy_(pretrained[name] + slopes[name] * (weight - pretrained[name]))
        yield
        for name, weight in weights.items():
            if weight.grad is not None:
                weight.grad.mul_(slopes[name])


def linear_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights [out, in] of the linear layers that train, by name: what mixout applies to."""
    layers = ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear))
    return {f"{name}.weight": cast(nn.Parameter, layer.weight) for name, layer in layers if layer.weight.requires_grad}


def add_l2_sp(
    weights: Mapping[str, nn.Parameter], pretrained: Mapping[str, torch.Tensor], strength: float, *, scale: float = 1.0
) -> None:
    """Add the gradient of strength / 2 * ||w - w0||^2 (L2-SP: Li, Grandvalet and Davoine 2018, arXiv:1802.01483).

    Args:
        weights: What is pulled, by name.
        pretrained: Where it is pulled to, by name.
        strength: Of the pull.
        scale: What the gradients are multiplied by, such as the loss scale of fp16.
    """
    with torch.no_grad():
        for name, weight in weights.items():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.add_(weight - pretrained[name], alpha=strength * scale)


def symmetric_divergence(logits_a: torch.Tensor, logits_b: torch.Tensor) -> torch.Tensor:
    """Return (KL(a || b) + KL(b || a)) / 2 for each row of two passes, shape [rows], from logits [rows, labels].

    What R-Drop adds to the losses of two passes with different dropout (Liang et al. 2021, arXiv:2106.14448, eq. 2).
    """
    log_a, log_b = logits_a.log_softmax(dim=-1), logits_b.log_softmax(dim=-1)
    # Both factors of a term have the same sign, so that rounding gives no negative divergence.
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(dim=-1) / 2


@contextmanager
def perturbed(embeddings: nn.Parameter, size: float) -> Iterator[None]:
    """Move the word embeddings by `size` along their gradient g: size * g / ||g||.

    This is FGM (Miyato, Dai and Goodfellow 2017, arXiv:1605.07725); as is common, one step on the table of embeddings
    takes the place of one for each text. The gradient has to be that of the whole global batch; the gradients of the
    passes inside add up in it. Without one, or where it is zero or has overflowed, nothing moves.
    """
    with restored([embeddings]):
        if embeddings.grad is not None:
            norm = torch.linalg.vector_norm(embeddings.grad)
            if torch.isfinite(norm) and norm > 0:
                with torch.no_grad():
                    embeddings.add_(embeddings.grad * (size / norm))
        yield


def has_active_dropout(network: nn.Module) -> bool:
    """Return whether two passes of `network`, in the mode it is in, differ by dropout."""
    return any(isinstance(module, nn.Dropout) and module.training and module.p > 0 for module in network.modules())


def check_regularizers(
    config: TrainingConfig,
    *,
    trains_encoder: bool,
    trains_linear: bool,
    trains_word_embeddings: bool,
    has_dropout: bool,
    has_adapters: bool,
) -> None:
    """Refuse regularizers that would change nothing.

    Args:
        config: What the user asked for.
        trains_encoder: Whether any of the encoder's own weights trains, at some time of the training.
        trains_linear: Whether the weight of a linear layer is among them.
        trains_word_embeddings: Whether the word embeddings are among them.
        has_dropout: Whether two passes in training differ by dropout.
        has_adapters: Whether low-rank updates train in place of the encoder's weights.

    Raises:
        ConfigError: If a regularizer cannot apply to what trains; all of them are named in one message.
    """
    way_out = "Leave --lora-rank out" if has_adapters else "Pass --freeze nothing without --train-only"
    found = "low-rank updates in their place" if has_adapters else "all of them frozen"
    wanted = {"--mixout": config.mixout > 0, "--l2-sp": config.l2_sp > 0, "--wise-ft": config.wise_ft is not None}
    problems = [
        f"Expected pretrained weights of the encoder that train for {flag}, found {found}. {way_out}, or leave {flag} "
        "out."
        for flag, is_wanted in wanted.items()
        if is_wanted and not trains_encoder
    ]
    if config.mixout > 0 and trains_encoder and not trains_linear:
        problems.append(
            "Expected linear layers of the encoder whose weights train for --mixout, found none. Leave --train-only "
            "out, or leave --mixout out."
        )
    if config.fgm > 0 and not trains_word_embeddings:
        problems.append(
            "Expected word embeddings that train for --fgm, which follows their gradient, found them frozen. "
            f"{way_out}, or leave --fgm out."
        )
    if config.r_drop > 0 and not has_dropout:
        problems.append(
            "Expected dropout in what trains for --r-drop, which compares two passes, found none. Pass --dropout 0.1, "
            "or leave --r-drop out."
        )
    if problems:
        raise ConfigError(" ".join(problems))
