"""Cuts an encoder above its lowest layers: what they give is computed once, and the rest goes on from there.

transformers has no entry between two layers, so modules are replaced for the time of one call.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from nlptl.model.parts import FAILURES, EncoderParts


class _Reached(Exception):
    def __init__(self, output: Any) -> None:
        self.output = output


def hidden_states_after(encoder: nn.Module, parts: EncoderParts, depth: int, **inputs: torch.Tensor) -> torch.Tensor:
    """Return the hidden states [batch, tokens, width] that the `depth` lowest layers give; no layer above is run.

    The inputs are those of the encoder, `input_ids` [batch, tokens] among them.
    """

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached(output)

    hook = parts.layers[depth - 1].register_forward_hook(stop)
    try:
        encoder(**inputs)
    except _Reached as reached:
        output = reached.output
    finally:
        hook.remove()
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def can_be_cut(encoder: nn.Module, parts: EncoderParts) -> bool:
    """Return whether an encoder that goes on from the output of its lowest layer gives the same on some tokens."""
    ids = torch.arange(2, 7, device=next(encoder.parameters()).device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        whole = encoder(**inputs).last_hidden_state
        hidden = hidden_states_after(encoder, parts, 1, **inputs)[:, : ids.shape[1]]
        try:
            with starting_from(parts, 1, hidden):
                return torch.allclose(encoder(**inputs).last_hidden_state, whole, atol=1e-5)
        except FAILURES:
            return False


@contextmanager
def starting_from(parts: EncoderParts, depth: int, hidden: torch.Tensor) -> Iterator[None]:
    """Within it, the encoder goes on from `hidden`, as if its `depth` lowest layers had just computed it."""
    with ExitStack() as stack:
        # What runs between two layers may read the embeddings' output too.
        if parts.embeddings is not None and not parts.between:
            stack.enter_context(_returning(parts.embeddings, hidden))
        length = parts.layer_outputs
        output = hidden if length is None else (hidden, *[None] * (length - 1))
        for layer in parts.layers[:depth]:
            stack.enter_context(_returning(layer, output))
        yield


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
