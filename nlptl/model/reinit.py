"""New weights for the top layers of an encoder, or for all of it."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from nlptl.data.order import stream_key
from nlptl.errors import ConfigError
from nlptl.model.seeding import seeded


def reinit_layers(
    network: PreTrainedModel, layers: Sequence[nn.Module] | None, pooler: nn.Module | None, *, count: int, seed: int
) -> None:
    """Give the top layers and the pooler new weights, as the architecture initializes them.

    The top layers of an encoder are the most tied to its pretraining; with few examples it can help to start them
    anew (Zhang et al. 2021, arXiv:2006.05987).

    Args:
        network: What the layers are in, on the CPU.
        layers: All layers of the encoder, lowest first; None if they share their weights.
        pooler: What pools the output of the top layer, if anything does.
        count: Number of top layers, at least 1.
        seed: Seeds the new weights.

    Raises:
        ConfigError: If the encoder does not have that many layers, or shares its weights between them.
    """
    if layers is None:
        raise ConfigError(
            f"Expected layers with weights of their own to start {count} of them anew, found an encoder whose layers "
            "share their weights. Leave reinit_layers out."
        )
    if not 1 <= count <= len(layers):
        raise ConfigError(
            f"Expected reinit_layers from 1 to {len(layers)}, the layers of the encoder, found {count}. Pass a "
            "number in this range, or leave reinit_layers out."
        )
    encoder = cast(PreTrainedModel, network.base_model)  # its rules, not those of our own heads
    with seeded(stream_key("reinit", seed)):
        for part in [*layers[len(layers) - count :], *([] if pooler is None else [pooler])]:
            for parameter in part.parameters():
                cast(Any, parameter)._is_hf_initialized = False  # transformers skips what it has loaded
            part.apply(encoder._init_weights)


def start_anew(network: PreTrainedModel, *, seed: int) -> None:
    """Give the whole encoder new weights, as transformers gives it to a new encoder of its architecture.

    What such an encoder learns from the same examples says what pretraining is worth.
    """
    encoder = cast(PreTrainedModel, network.base_model)
    with seeded(stream_key("start anew", seed)):
        fresh = AutoModel.from_config(encoder.config, dtype=torch.float32).state_dict()
    encoder.load_state_dict({name: fresh[name] for name in encoder.state_dict()})
