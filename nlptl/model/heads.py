"""Pooling, and the heads that transformers does not have.

A `HeadedClassifier` is a transformers model like any other: it saves and loads with `save_pretrained` and
`from_pretrained`, and `nlptl` registers it with the Auto classes. For an architecture's own head ("native") the stock
class is used instead.
"""

import itertools
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from nlptl.config import Pooling
from nlptl.model.chunks import cut_into_chunks
from nlptl.model.fitted_heads import LinearHead
from nlptl.model.headed_config import HeadedConfig
from nlptl.tasks.losses import conditional_log_probabilities


class AttentionPooling(nn.Module):
    """The mean of hidden states h, weighted by softmax(h q) with a learned query q (after Yang et al. 2016, eq. 6).

    Over chunks, as there over sentences (eq. 9): h is what was pooled of each.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)  # a bias would change no softmax

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Pool hidden states [batch, tokens, width] over the tokens, padding left out: [batch, width]."""
        scores = self.query(hidden).masked_fill(~attention_mask.unsqueeze(-1).bool(), float("-inf"))
        pooled: torch.Tensor = (scores.softmax(dim=1) * hidden).sum(dim=1)
        return pooled


class LayerMix(nn.Module):
    """A learned mix of layers: scale * sum of softmax(weights)_j * layer_j (Peters et al. 2018, eq. 1)."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Mix features of all layers side by side [batch, layers * width] into [batch, width]."""
        layers = features.unflatten(1, (len(self.weights), -1))
        return self.scale * torch.einsum("j,bjw->bw", self.weights.softmax(dim=0), layers)


class Head(nn.Module):
    """What is trained between the encoder and the logits, one for each label.

    With `hidden`, dense layers and activations come first: with one, the head of the classic transfer-learning recipe
    (frozen network, Dense(1024, relu), sigmoid). With `one_logit`, a binary head has a single output unit z and its
    logits are (0, z). With `ordinal`, there is a unit for each step between two labels, and the logits are the
    logarithms of the probabilities of the labels, as in CORN. Attention pooling is a part of the head, since it has
    weights; so is the mix of layers, which reads the pooled features of every layer. As the mean and the first token
    are linear, a mix of pooled layers is the pooled mix of layers; and over a frozen encoder it reads what never
    changes. Attention over the chunks of a text is a part of the head too.
    """

    def __init__(self, config: HeadedConfig, width: int, *, num_states: int) -> None:
        super().__init__()
        self.attention = AttentionPooling(width) if config.pooling == "attention" else None
        in_chunks = config.chunk_pooling == "attention"
        self.chunk_attention = AttentionPooling(width * num_states) if in_chunks else None
        self.mix = LayerMix(num_states) if config.layers == "mix" else None
        widths = [width if self.mix else width * num_states, *(config.hidden or [])]
        self.dense = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.activation = ACT2FN[config.activation]
        self.dropout = nn.Dropout(config.dropout)
        self.is_ordinal, self.has_one_logit = config.ordinal, config.one_logit
        self.output = nn.Linear(widths[-1], 1 if config.one_logit else int(config.num_labels or 0) - config.ordinal)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, labels] of pooled features [batch, width of all layers that are read]."""
        if self.mix is not None:
            features = self.mix(features)
        for dense in self.dense:
            features = self.activation(dense(features))
        logits = self.output(self.dropout(features))
        if self.is_ordinal:
            return conditional_log_probabilities(logits)
        return F.pad(logits, (1, 0)) if self.has_one_logit else logits


class HeadedClassifier(PreTrainedModel):
    """A pretrained encoder, a pooling over its hidden states, and a head.

    With a `chunk_length`, the token ids of a text are chunks of that length, except the last, which may be shorter.
    Each is encoded and pooled, and `chunk_pooling` pools the chunks (after Pappagari et al. 2019, arXiv:1910.10781).
    """

    config_class = HeadedConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: HeadedConfig, encoder: PreTrainedModel | None = None) -> None:
        """Put a new head on `encoder`; None: on a new one, as `config` describes it."""
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder) if encoder is None else encoder
        settings = self.encoder.config
        by_name = {"last": 1, "mix": settings.num_hidden_layers + 1}  # the embeddings' output included
        self.num_states = config.layers if isinstance(config.layers, int) else by_name[config.layers]
        width = settings.hidden_size
        if config.head == "dense":
            self.head: nn.Module = Head(config, width, num_states=self.num_states)
        else:
            self.head = LinearHead(config, width * self.num_states)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=getattr(self.config.encoder, "initializer_range", 0.02))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the pooled hidden states of the layers that are read, side by side: shape [batch, width]."""
        length = self.config.chunk_length
        if length is None:
            return self._encode(input_ids, attention_mask, token_type_ids)
        pad_id = self.config.encoder.pad_token_id or 0
        chunks, mask, has_tokens = cut_into_chunks(input_ids, attention_mask, length, pad_id=pad_id)
        found = self._encode(chunks, mask)
        # Padding is zero, and gets no gradient.
        rows = found.new_zeros(*has_tokens.shape, found.shape[1]).masked_scatter(has_tokens.unsqueeze(-1), found)
        if self.config.chunk_pooling == "attention":
            pooled: torch.Tensor = self.head.chunk_attention(rows, has_tokens)  # type: ignore[operator]
            return pooled
        return pool(rows, has_tokens, self.config.chunk_pooling)

    def _encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        needs_all = self.config.layers != "last"
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=needs_all, **types
        )
        last = outputs.last_hidden_state
        # Some families list their top layer without the final norm.
        states = [*outputs.hidden_states[:-1], last][-self.num_states :] if needs_all else [last]
        return torch.cat([self._pool(state, attention_mask) for state in states], dim=1)

    def _pool(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "attention":
            pooled: torch.Tensor = self.head.attention(hidden, attention_mask)  # type: ignore[operator]
            return pooled
        return pool(hidden, attention_mask, self.config.pooling)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return the logits [batch, labels] of token ids [batch, tokens]."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if "token_type_ids" not in signature(self.encoder.forward).parameters:
            token_type_ids = None  # of a tokenizer that gives them to an encoder that has none
        return SequenceClassifierOutput(logits=self.head(self.features(input_ids, mask, token_type_ids)))


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
