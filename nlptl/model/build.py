"""Puts a new head on a pretrained encoder."""

import json
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from nlptl.config import HeadConfig
from nlptl.data.order import stream_key
from nlptl.errors import ConfigError
from nlptl.labels import Labels
from nlptl.model.encoder import load_encoder, load_weights, read_config, set_dropout
from nlptl.model.headed_config import HeadedConfig
from nlptl.model.heads import HeadedClassifier


def build_network(
    folder: Path, labels: Labels, head: HeadConfig, *, num_ids: int, seed: int
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load the encoder in `folder` and put a new head on it.

    Args:
        folder: The model folder.
        labels: Names of the classes.
        head: What the user asked for; pooling is no longer "auto".
        num_ids: Number of token ids that the tokenizer can give.
        seed: Seeds the new weights.

    Returns:
        The network, and the names of parameters inside the encoder that are new, since the checkpoint lacks them.

    Raises:
        ConfigError: If a setting is out of range, contradicts another one, or does not fit the encoder.
    """
    _check(head, labels)
    config = read_config(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key("init", seed))
        encoder, pooler_is_new = _load_encoder(folder, config, head)
        _name_labels(config := encoder.config, labels)
        if head.pooling == "native":
            network = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            own = network.base_model.state_dict()
            weights = {k: v for k, v in encoder.state_dict().items() if k in own}
            if pooler_is_new:
                weights = {k: v for k, v in weights.items() if not k.startswith("pooler.")}
            network.base_model.load_state_dict(weights, strict=not pooler_is_new)
            if head.binary_loss == "sigmoid":
                _hold_first_logit_at_zero(network)
        else:
            network = HeadedClassifier(_headed_config(config, labels, head))
            network.encoder.load_state_dict(encoder.state_dict())
    rows = network.base_model.get_input_embeddings().num_embeddings
    if num_ids > rows:
        raise ConfigError(
            f"Expected a tokenizer with at most {rows} token ids, the encoder's embeddings, found {num_ids}. "
            "Pass a model folder whose tokenizer and weights belong together."
        )
    prefix = network.base_model_prefix
    is_new = pooler_is_new and head.pooling == "native"
    new_names = frozenset(n for n, _ in network.named_parameters() if is_new and n.startswith(f"{prefix}.pooler."))
    return network, new_names


def _check(head: HeadConfig, labels: Labels) -> None:
    if head.pooling not in ("native", "cls", "mean", "max"):
        raise ConfigError(f"Expected pooling 'auto', 'native', 'cls', 'mean' or 'max', found {head.pooling!r}.")
    if head.pooling == "native" and head.hidden is not None:
        raise ConfigError(
            f"Expected no hidden layer with the architecture's own head, found hidden={head.hidden} with "
            "pooling 'native' (what 'auto' means unless the encoder is frozen). Pass --pooling mean, cls or max "
            "(pooling= in Python)."
        )
    if head.hidden is not None and head.hidden < 1:
        raise ConfigError(f"Expected hidden to be 1 or more units, found {head.hidden}.")
    if head.activation is not None and head.hidden is None:
        raise ConfigError(
            f"Expected an activation only with a hidden layer, found activation={head.activation!r} without one. "
            "Pass --hidden 1024 as well (hidden= in Python), or leave the activation out."
        )
    if head.activation not in (None, "relu", "gelu", "tanh"):
        raise ConfigError(f"Expected activation 'relu', 'gelu' or 'tanh', found {head.activation!r}.")
    if head.dropout is not None and not 0 <= head.dropout < 1:
        raise ConfigError(f"Expected dropout to be at least 0 and below 1, found {head.dropout}.")
    if head.binary_loss not in ("softmax", "sigmoid"):
        raise ConfigError(f"Expected binary_loss 'softmax' or 'sigmoid', found {head.binary_loss!r}.")
    if head.binary_loss == "sigmoid" and len(labels) != 2:
        raise ConfigError(
            f"Expected two labels for binary_loss 'sigmoid', found {len(labels)}. Leave binary_loss at 'softmax'."
        )


def _load_encoder(folder: Path, config: PreTrainedConfig, head: HeadConfig) -> tuple[PreTrainedModel, bool]:
    if isinstance(config, HeadedConfig):
        if head.dropout is not None:
            set_dropout(cast(PreTrainedConfig, config.encoder), head.dropout)
        network, _ = load_weights(HeadedClassifier, folder, config)
        return cast(PreTrainedModel, network.encoder), False
    if head.dropout is not None:
        set_dropout(config, head.dropout)
    return load_encoder(folder, config, needs_pooler=head.pooling == "native")


def _name_labels(config: PreTrainedConfig, labels: Labels) -> None:
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: i for i, name in enumerate(labels.names)}
    config.problem_type = "single_label_classification"


def _headed_config(encoder: PreTrainedConfig, labels: Labels, head: HeadConfig) -> HeadedConfig:
    config = HeadedConfig(
        encoder=json.loads(encoder.to_json_string(use_diff=False)),
        pooling=head.pooling,
        hidden=head.hidden,
        activation="relu" if head.activation is None else head.activation,
        dropout=_head_dropout(encoder) if head.dropout is None else head.dropout,
        one_logit=head.binary_loss == "sigmoid",
    )
    _name_labels(config, labels)
    return config


def _head_dropout(encoder: PreTrainedConfig) -> float:
    """Return the dropout that the checkpoint has before its own head, by whatever name the family gives it."""
    values = encoder.to_dict()
    names = ("classifier_dropout", "seq_classif_dropout", "classifier_dropout_prob", "hidden_dropout_prob")
    return next((float(values[name]) for name in names if values.get(name) is not None), 0.1)


def _hold_first_logit_at_zero(network: PreTrainedModel) -> None:
    # Row 0 of the last layer starts at zero and the loss reads the second logit alone, so that it gets no gradient
    # and stays zero: a head with one logit, in the shape of a stock checkpoint with two labels.
    last = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == 2][-1]
    with torch.no_grad():
        last.weight[0] = 0
        last.bias[0] = 0
