"""Puts a new head on a pretrained encoder."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from nlptl.config import HeadConfig
from nlptl.data.order import stream_key
from nlptl.errors import ConfigError
from nlptl.model.encoder import FAMILIES, load_weights, set_dropout
from nlptl.model.headed_config import HeadedConfig
from nlptl.model.heads import HeadedClassifier
from nlptl.model.native import NoOwnHeadError, check_other_family
from nlptl.model.seeding import seeded
from nlptl.tasks.task import Task


def build_network(
    folder: Path, config: PreTrainedConfig, task: Task, head: HeadConfig, *, num_ids: int, seed: int
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Load the encoder in `folder` and put a new head on it, as `check_head` has passed it.

    `num_ids` is the number of token ids that the tokenizer can give.

    Returns:
        The network, and the names of parameters inside the encoder that are new, since the checkpoint lacks them.

    Raises:
        ConfigError: If the encoder does not do what is expected, the tokenizer can give more ids than it takes, or the
            head reads more layers than it has or is not there.
        UntrustedFileError: If the weights are damaged or incomplete.
    """
    num_layers = _encoder_config(config).num_hidden_layers
    if isinstance(head.layers, int) and head.layers > num_layers:
        raise ConfigError(
            f"Expected layers from 1 to {num_layers}, what the encoder has, 'last' or 'mix', found {head.layers}. "
            f"Pass --layers {num_layers} or less (layers of HeadConfig in Python)."
        )
    with seeded(stream_key("init", seed)):
        new: list[str] = []
        encoder, pooler_is_new = _load_encoder(folder, config, head)
        if encoder.config.model_type not in FAMILIES:
            check_other_family(encoder)
        _name_labels(config := encoder.config, task)
        if head.pooling == "native":
            if type(config) not in auto_class(task)._model_mapping:
                if task.is_per_token:
                    raise ConfigError(
                        f"Expected an encoder for which transformers has a head for tags of words, found "
                        f"{config.model_type}. Pass another, such as bert or roberta."
                    )
                raise NoOwnHeadError(f"{config.model_type}, for which transformers has none")
            network = auto_class(task).from_config(config, dtype=torch.float32)
            own = network.base_model.state_dict()
            weights = {k: v for k, v in encoder.state_dict().items() if k in own}
            new = network.base_model.load_state_dict(weights, strict=False).missing_keys
            if head.binary_loss == "sigmoid":
                _hold_first_logit_at_zero(network)
        else:
            network = HeadedClassifier(_headed_config(config, task, head), encoder)
    embeddings = network.base_model.get_input_embeddings()
    rows = len(getattr(embeddings, "weight", embeddings))
    if num_ids > rows:
        raise ConfigError(
            f"Expected a tokenizer with at most {rows} token ids, the encoder's embeddings, found {num_ids}. "
            "Pass a model folder whose tokenizer and weights belong together."
        )
    if pooler_is_new and head.pooling == "native" and not task.is_per_token:
        new = [*new, *(name for name, _ in network.base_model.named_parameters() if name.startswith("pooler."))]
    return network, frozenset(f"{network.base_model_prefix}.{name}" for name in new)


def auto_class(task: Task) -> Any:
    """Return the Auto class of transformers that has the architecture's own head for a task."""
    return AutoModelForTokenClassification if task.is_per_token else AutoModelForSequenceClassification


def _load_encoder(folder: Path, config: PreTrainedConfig, head: HeadConfig) -> tuple[PreTrainedModel, bool]:
    if head.dropout is not None:
        set_dropout(_encoder_config(config), head.dropout)
    if isinstance(config, HeadedConfig):
        network, _ = load_weights(HeadedClassifier, folder, config)
        return cast(PreTrainedModel, network.encoder), False
    return load_weights(AutoModel, folder, config, optional=("pooler.",))


def _encoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    return cast(PreTrainedConfig, config.encoder) if isinstance(config, HeadedConfig) else config


def _name_labels(config: PreTrainedConfig, task: Task) -> None:
    config.id2label = dict(enumerate(task.names))
    config.label2id = {name: i for i, name in enumerate(task.names)}
    config.problem_type = cast(Any, task.problem_type)


def _headed_config(encoder: PreTrainedConfig, task: Task, head: HeadConfig) -> HeadedConfig:
    config = HeadedConfig(
        encoder=json.loads(encoder.to_json_string(use_diff=False)),
        **{name: getattr(head, name) for name in ("head", "pooling", "chunk_pooling", "layers")},
        hidden=list(head.hidden),
        activation="relu" if head.activation is None else head.activation,
        dropout=_head_dropout(encoder) if head.dropout is None else head.dropout,
        one_logit=head.binary_loss == "sigmoid",
        ordinal=task.kind == "ordinal",
    )
    _name_labels(config, task)
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
