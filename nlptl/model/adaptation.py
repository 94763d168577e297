"""What is done to a pretrained encoder before it trains: layers that start anew, low-rank updates."""

from transformers import PreTrainedModel

from nlptl.config import TransferConfig
from nlptl.errors import ConfigError
from nlptl.model.adapters import add_lora
from nlptl.model.parts import EncoderParts
from nlptl.model.reinit import reinit_layers


def adapt_encoder(network: PreTrainedModel, parts: EncoderParts, config: TransferConfig, *, seed: int) -> None:
    """Give the encoder the new weights and low-rank updates that `config` asks for, as `check_transfer` has passed it.

    Raises:
        ConfigError: If there are no such layers, or they do not train.
    """
    num_frozen = config.freeze if isinstance(config.freeze, int) else 0
    if config.lora_rank is not None:
        add_lora(
            network,
            parts.layers[num_frozen:],
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            targets=config.lora_targets,
            dropout=config.lora_dropout,
            dora=config.dora,
            seed=seed,
        )
    count = config.reinit_layers
    if count == 0:
        return
    num_free = parts.num_layers - num_frozen
    if not parts.shares_layers and num_free < count <= parts.num_layers:
        raise ConfigError(
            f"Expected new weights for layers that train, found reinit_layers={count} and {num_free} layers above the "
            "frozen ones. Lower reinit_layers or --freeze."
        )
    reinit_layers(network, None if parts.shares_layers else parts.layers, parts.pooler, count=count, seed=seed)
