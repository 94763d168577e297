"""An architecture's own head: the features that it reads, and its logits without a pass of the encoder."""

from typing import Literal, get_args

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from nlptl.errors import ConfigError, one_line
from nlptl.model.encoder import FAMILIES, max_positions
from nlptl.model.heads import pool
from nlptl.model.inference import evaluating
from nlptl.model.parts import FAILURES, check_tokens, find_parts

NativePooling = Literal["pooler", "cls", "mean"]

MOST_TOKENS = 512
"""Length of the text on which a family that was not tested is tried."""


class NoOwnHeadError(ConfigError):
    """An architecture without a head of its own, or with one that reads more than a vector of each text."""

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"Expected a head that reads the first token, the mean or the pooler for pooling 'native', found {found}. "
            "Pass --pooling mean, cls or max."
        )


def native_pooling(network: PreTrainedModel) -> NativePooling:
    """Find out what the architecture's own head reads: the pooler, the first token or the mean.

    Raises:
        NoOwnHeadError: If it reads something else.
    """
    if network.config.model_type in FAMILIES:
        has_pooler = getattr(network.base_model, "pooler", None) is not None
        # modernbert's configuration may ask for the mean.
        return "pooler" if has_pooler else network.config.to_dict().get("classifier_pooling", "cls")
    ids = torch.arange(2, 6, device=network.device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found: list[NativePooling] = []
    with evaluating(network):
        for pooling in get_args(NativePooling):
            try:
                split = native_logits(network, native_features(network, pooling, **inputs))
                if torch.allclose(network(**inputs).logits, split, atol=1e-5):
                    found.append(pooling)
            except FAILURES:
                continue
    if len(found) != 1:
        raise NoOwnHeadError(f"another in {network.config.model_type}")
    return found[0]


def native_features(
    network: PreTrainedModel,
    pooling: NativePooling,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    **token_types: torch.Tensor,
) -> torch.Tensor:
    """Return what the architecture's own head reads of token ids [batch, tokens]: shape [batch, width]."""
    outputs = network.base_model(input_ids=input_ids, attention_mask=attention_mask, **token_types)
    if pooling == "pooler":
        features: torch.Tensor = outputs.pooler_output
        return features
    return pool(outputs.last_hidden_state, attention_mask, pooling)


def native_logits(network: PreTrainedModel, features: torch.Tensor) -> torch.Tensor:
    """Return the logits [batch, labels] of what `native_features` returned."""
    # The stock classes have no entry between encoder and head, so the encoder's forward is replaced for one call by one
    # that returns the features: as the pooled output, and as the hidden state of a text of one token.
    encoder = network.base_model
    outputs = BaseModelOutputWithPooling(last_hidden_state=features[:, None], pooler_output=features)
    encoder.forward = lambda *args, **kwargs: outputs
    ids = torch.zeros(len(features), 1, dtype=torch.long, device=features.device)  # some heads look at the shape
    try:
        logits: torch.Tensor = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    finally:
        del encoder.forward
    return logits


def check_other_family(encoder: PreTrainedModel) -> None:
    """Check, on some tokens, that an encoder of a family that was not tested does what is expected of all.

    Raises:
        ConfigError: If it does not read token ids and a mask, has another structure, or lets hidden states depend on
            padding or on earlier tokens alone.
    """
    try:
        check_tokens(encoder)
        find_parts(encoder)
        encoder.get_input_embeddings()
        ids = torch.full((1, min(max_positions(encoder), MOST_TOKENS)), 3, device=encoder.device)
        with evaluating(encoder):
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    except FAILURES as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            "Expected an encoder that takes token ids and a mask, and gives hidden states, found "
            f"{encoder.config.model_type}, with: {one_line(error)} Pass a model of another family, such as bert, "
            "roberta or deberta-v2."
        ) from error


def unread_names(network: PreTrainedModel) -> frozenset[str]:
    """Return the parameters on which no logit depends, such as those for other inputs than tokens; none can train."""
    ids = torch.arange(2, 6, device=network.device)[None]
    with torch.enable_grad():
        todo = [network.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.grad_fn]
    seen, read = set(), set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        read.add(id(getattr(node, "variable", None)))  # which the nodes of parameters have
        todo += [following for following, _ in node.next_functions]
    return frozenset(name for name, parameter in network.named_parameters() if id(parameter) not in read)
