"""The head that an architecture brings along itself: what it reads, and its logits, apart from the encoder."""

from typing import cast

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from nlptl.errors import ConfigError
from nlptl.model.heads import pool
from nlptl.model.inference import evaluating
from nlptl.model.parts import check_padding


def native_features(
    network: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, **token_types: torch.Tensor
) -> torch.Tensor:
    """Return what the architecture's own head reads of token ids [batch, tokens]: shape [batch, width]."""
    outputs = network.base_model(input_ids=input_ids, attention_mask=attention_mask, **token_types)
    if "pooler_output" in outputs:
        features: torch.Tensor = outputs.pooler_output
        return features
    # Stock heads read the first token; modernbert's configuration may ask for the mean instead.
    return pool(outputs.last_hidden_state, attention_mask, network.config.to_dict().get("classifier_pooling", "cls"))


def native_logits(network: PreTrainedModel, features: torch.Tensor) -> torch.Tensor:
    """Return the logits [batch, labels] of what `native_features` returned."""
    # The stock classes have no entry between encoder and head, so the encoder's forward is replaced for one call by one
    # that returns the features: as the pooled output, and as the hidden state of a text of one token.
    encoder = network.base_model
    outputs = BaseModelOutputWithPooling(last_hidden_state=features[:, None], pooler_output=features)
    encoder.forward = lambda *args, **kwargs: outputs
    try:
        logits: torch.Tensor = network(input_ids=None).logits
    finally:
        del encoder.forward
    return logits


def check_other_family(network: PreTrainedModel, *, is_native: bool) -> None:
    """Check, on some tokens, that a model of a family that was not tested does what is expected of all.

    Raises:
        ConfigError: If hidden states change with padding, or the own head reads something else than is known here.
    """
    ids = torch.arange(1, 5)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    family, is_same = network.config.model_type, True
    try:
        check_padding(cast(PreTrainedModel, network.base_model))
        if is_native:
            with evaluating(network):
                split = native_logits(network, native_features(network, **inputs))
                is_same = torch.allclose(network(**inputs).logits, split, atol=1e-5)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"Expected an encoder that takes token ids and a mask, and gives hidden states, found {family}, with: "
            f"{error}. Pass a model of another family, such as bert, roberta or deberta-v2."
        ) from error
    if not is_same:
        raise ConfigError(
            f"Expected a head that reads the first token or the pooler, found another in {family}. Pass --pooling "
            "mean, cls or max (pooling= in Python)."
        )
