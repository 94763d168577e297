"""What a pretrained encoder gets before it trains: low-rank updates, and new weights for some layers or for all."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from nlptl.config import TransferConfig
from nlptl.data.order import stream_key
from nlptl.errors import ConfigError
from nlptl.model.adapters import add_lora
from nlptl.model.parts import EncoderParts
from nlptl.model.seeding import seeded


def adapt_encoder(network: PreTrainedModel, parts: EncoderParts, config: TransferConfig, *, seed: int) -> None:
    """Give the encoder the new weights and low-rank updates that `config` asks for, as `check_transfer` has passed it.

    Raises:
        ConfigError: If there are no such layers, or they do not train.
    """
    num_frozen = config.freeze if isinstance(config.freeze, int) else 0
    if config.lora_rank is not None:
        add_lora(network, parts.layers[num_frozen:], config, seed=seed)
    count, num_free = config.reinit_layers, parts.num_layers - num_frozen
    if not parts.shares_layers and num_free < count <= parts.num_layers:
        raise ConfigError(
            f"Expected new weights for layers that train, found reinit_layers={count} and {num_free} layers above the "
            "frozen ones. Lower reinit_layers or --freeze."
        )
    if count:
        reinit_layers(network, None if parts.shares_layers else parts.layers, parts.pooler, count=count, seed=seed)


def reinit_layers(
    network: PreTrainedModel, layers: Sequence[nn.Module] | None, pooler: nn.Module | None, *, count: int, seed: int
) -> None:
    """Give the `count` top layers and the pooler new weights, as the architecture initializes them.

    The top layers are the most specialized to pretraining; with few examples it can help to reset them (Zhang et al.
    2021, arXiv:2006.05987). `layers` are all of them, lowest first; None if they share their weights.

    Raises:
        ConfigError: If the encoder does not have that many layers, or shares its weights between them.
    """
    if layers is None:
        raise ConfigError(
            f"Expected layers with weights of their own for reinit_layers={count}, found an encoder whose layers share "
            "their weights. Leave reinit_layers out."
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
    """Give the whole encoder new weights, as transformers initializes it: the baseline without pretraining."""
    encoder = cast(PreTrainedModel, network.base_model)
    with seeded(stream_key("start anew", seed)):
        fresh = AutoModel.from_config(encoder.config, dtype=torch.float32).state_dict()
    encoder.load_state_dict({name: fresh[name] for name in encoder.state_dict()})
