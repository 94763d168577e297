"""Puts a new head on a pretrained encoder."""

import json
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from nlptl.config import HeadConfig
from nlptl.data.order import stream_key
from nlptl.errors import ConfigError
from nlptl.labels import Labels
from nlptl.model.encoder import load_weights, set_dropout
from nlptl.model.headed_config import HeadedConfig
from nlptl.model.heads import HeadedClassifier


def build_network(
    folder: Path, config: PreTrainedConfig, labels: Labels, head: HeadConfig, *, num_ids: int, seed: int
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load the encoder in `folder` and put a new head on it.

    Args:
        folder: The model folder.
        config: The folder's configuration, as `read_config` has passed it.
        labels: Names of the classes.
        head: What the user asked for, as `check_head` has passed it; pooling is no longer "auto".
        num_ids: Number of token ids that the tokenizer can give.
        seed: Seeds the new weights.

    Returns:
        The network, and the names of parameters inside the encoder that are new, since the checkpoint lacks them.

    Raises:
        ConfigError: If the tokenizer can give more ids than the encoder takes.
        UntrustedFileError: If the weights are damaged or incomplete.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key("init", seed))
        encoder, pooler_is_new = _load_encoder(folder, config, head)
        _name_labels(config := encoder.config, labels)
        if head.pooling == "native":
            network = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            own = network.base_model.state_dict()
            network.base_model.load_state_dict({k: v for k, v in encoder.state_dict().items() if k in own})
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
    pooler = f"{network.base_model_prefix}.pooler."
    is_new = pooler_is_new and head.pooling == "native"
    return network, frozenset(name for name, _ in network.named_parameters() if is_new and name.startswith(pooler))


def check_head(head: HeadConfig, labels: Labels) -> None:
    """Check the settings of a new head before anything is downloaded or loaded.

    Raises:
        ConfigError: If a setting is out of range or contradicts another one.
    """
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
    is_headed = isinstance(config, HeadedConfig)
    if head.dropout is not None:
        set_dropout(cast(PreTrainedConfig, config.encoder if is_headed else config), head.dropout)
    if is_headed:
        network, _ = load_weights(HeadedClassifier, folder, config)
        return cast(PreTrainedModel, network.encoder), False
    return load_weights(AutoModel, folder, config, optional=("pooler.",))


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
