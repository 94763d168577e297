"""The configuration of a `HeadedClassifier`, apart from it, since AutoConfig can be imported without any model."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from nlptl.config import Activation, HeadKind


class HeadedConfig(PreTrainedConfig):
    """Configuration of a `HeadedClassifier`: the encoder's own configuration and the shape of the head."""

    model_type = "nlptl"
    sub_configs = {"encoder": AutoConfig}

    encoder: PreTrainedConfig | dict[str, Any] | None = None
    head: HeadKind = "dense"
    pooling: str = "mean"
    chunk_length: int | None = None  # token ids come in chunks of so many; None: in one piece
    chunk_pooling: str = "mean"
    layers: str | int = "last"
    hidden: list[int] | None = None
    activation: Activation = "relu"
    dropout: float = 0.1
    one_logit: bool = False
    ordinal: bool = False  # one unit for each step between two labels that are in an order
    num_examples: int = 0  # that a head other than "dense" was fitted on

    def __post_init__(self, **kwargs: Any) -> None:  # the protocol of PreTrainedConfig
        kwargs.pop("neighbors", None)  # in folders that nlptl 0.1.0 wrote
        if isinstance(self.encoder, dict):
            settings = dict(self.encoder)
            self.encoder = AutoConfig.for_model(settings.pop("model_type"), **settings)
        super().__post_init__(**kwargs)


# Importing this module makes AutoConfig know saved `HeadedClassifier` folders.
AutoConfig.register(HeadedConfig.model_type, HeadedConfig, exist_ok=True)
