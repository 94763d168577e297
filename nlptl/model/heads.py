"""Pooling, and the heads that transformers does not have.

A `HeadedClassifier` is a transformers model like any other: it saves and loads with `save_pretrained` and
`from_pretrained`, and `nlptl` registers it with the Auto classes. For the head that an architecture brings along
itself ("native") the stock class is used instead.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from nlptl.config import Pooling
from nlptl.model.headed_config import HeadedConfig


class Head(nn.Module):
    """Dense layers from pooled features [batch, width] to one logit per label.

    With `hidden`, a dense layer and an activation come first: the head of the classic transfer-learning recipe
    (frozen network, Dense(1024, relu), sigmoid). With `one_logit`, a binary head has a single output unit z and its
    logits are (0, z).
    """

    def __init__(self, config: HeadedConfig, width: int) -> None:
        super().__init__()
        self.hidden = None if config.hidden is None else nn.Linear(width, config.hidden)
        self.activation = ACT2FN[config.activation]
        self.dropout = nn.Dropout(config.dropout)
        inputs = width if config.hidden is None else config.hidden
        self.output = nn.Linear(inputs, 1 if config.one_logit else int(config.num_labels or 0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, labels]."""
        if self.hidden is not None:
            features = self.activation(self.hidden(features))
        logits = self.output(self.dropout(features))
        return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits


class HeadedClassifier(PreTrainedModel):
    """A pretrained encoder, a pooling over its last hidden states, and a `Head`."""

    config_class = HeadedConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: HeadedConfig) -> None:
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder)
        self.head = Head(config, self.encoder.config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.encoder.initializer_range)
            nn.init.zeros_(module.bias)

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the pooled last hidden states, shape [batch, width]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool(hidden, attention_mask, self.config.pooling)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return the logits [batch, labels] of token ids [batch, tokens]; single texts have token type 0 throughout."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return SequenceClassifierOutput(logits=self.head(self.features(input_ids, mask)))


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: Pooling | str) -> torch.Tensor:
    """Pool hidden states [batch, tokens, width] over the tokens of each text, padding left out: [batch, width]."""
    mask = attention_mask.unsqueeze(-1).bool()
    match pooling:
        case "cls":
            return hidden[:, 0]
        case "mean":
            return (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        case "max":
            return hidden.masked_fill(~mask, torch.finfo(hidden.dtype).min).amax(dim=1)
    raise ValueError(f"Expected pooling 'cls', 'mean' or 'max', found {pooling!r}.")


# Importing this module makes the Auto classes know saved `HeadedClassifier` folders.
AutoModelForSequenceClassification.register(HeadedConfig, HeadedClassifier, exist_ok=True)
