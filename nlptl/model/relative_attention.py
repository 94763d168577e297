"""Attention of DeBERTa-v2 and v3, which does not go through transformers' attention interface.

It replaces the forward of an attention module while layers see no padding. Scores are those of the paper; the part that
depends only on the distance of two tokens is computed once per layer and for the distances that occur, where
transformers computes it for every text and every possible distance.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nlptl.model.quick import drop
from nlptl.model.text_groups import TextGroup, attend_in_groups


def deberta_attention(
    module: Any,
    groups: Sequence[TextGroup],
    hidden: torch.Tensor,
    attention_mask: torch.Tensor,
    relative_pos: torch.Tensor | None,
    rel_embeddings: torch.Tensor | None,
) -> tuple[torch.Tensor, None]:
    """Return what `DisentangledSelfAttention` does (He et al. 2021, equation 4) of tokens [1, tokens, width].

    Args:
        module: The attention module.
        groups: The texts.
        hidden: What the layer reads.
        attention_mask: Which pairs of tokens there are: [texts, 1, longest, longest].
        relative_pos: The bucket of the distance of two tokens: [1, longest, longest].
        rel_embeddings: The vector of each bucket: [buckets, width].
    """
    kinds = [kind for kind in ("c2p", "p2c") if kind in module.pos_att_type]
    # In float32 whatever the weights are, as transformers has it.
    scale = 1 / float(torch.tensor(module.attention_head_size * (1.0 + len(kinds))).sqrt())
    queries, keys, values = (f(hidden).squeeze(0) for f in (module.query_proj, module.key_proj, module.value_proj))
    to_keys = to_queries = None
    if relative_pos is not None and rel_embeddings is not None:
        # From the longest distance backwards to the longest forwards, counted from query to key and from key to query.
        distances = torch.cat([relative_pos[0, 0, 1:].flip(0), relative_pos[0, :, 0]])
        span = module.pos_ebd_size
        buckets = (distances + span).clamp(0, 2 * span - 1)
        first = int(buckets[0])
        vectors = module.pos_dropout(rel_embeddings[first : int(buckets[-1]) + 1])
        if "c2p" in kinds:
            project = module.key_proj if module.share_att_key else module.pos_key_proj
            to_keys = _by_head(project(vectors)[buckets - first].flip(0), module.num_attention_heads)
        if "p2c" in kinds:
            project = module.query_proj if module.share_att_key else module.pos_query_proj
            to_queries = _by_head(project(vectors)[buckets - first], module.num_attention_heads)

    def attend(group: TextGroup, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = query @ key.transpose(2, 3)
        if to_keys is not None:
            scores = scores + of_distances(to_keys, query)
        if to_queries is not None:
            # Keys are not scaled, and the queries that they meet here are vectors of distances.
            scores = scores + of_distances(to_queries * scale, key).transpose(2, 3)
        is_key = attention_mask[group.rows, :, :1, : group.longest].bool()
        return _attend(scores.masked_fill(~is_key, torch.finfo(scores.dtype).min), value, module.dropout)

    by_token = (queries * scale, keys, values)
    return attend_in_groups(attend, groups, *by_token, num_heads=module.num_attention_heads)[None], None


def of_distances(table: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Return x_a . t_(b - a) for each text, head and pair of tokens a and b: [texts, heads, tokens, tokens].

    Args:
        table: A vector for each distance from 1 - n to n - 1: [heads, 2 n - 1, width], n being `tokens` or more.
        states: The vectors x: [texts, heads, tokens, width].
    """
    length, middle = states.shape[2], table.shape[1] // 2
    products = states @ table[:, middle - length + 1 : middle + length].transpose(1, 2)
    if length == 1:
        return products
    # The row of token a begins at distance -a, one place earlier than that of the token before.
    shifted = products.flatten(2)[..., length - 1 : (length - 1) * (2 * length + 1)]
    rows: torch.Tensor = shifted.unflatten(2, (length, 2 * length - 2))
    return rows[..., :length]


def _attend(scores: torch.Tensor, value: torch.Tensor, dropout: nn.Dropout) -> torch.Tensor:
    shares = scores.softmax(dim=3)
    return (drop(shares, dropout.p) if dropout.training else shares) @ value


def _by_head(vectors: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return [heads, rows, width of a head] of [rows, width]."""
    by_head: torch.Tensor = vectors.unflatten(1, (num_heads, -1))
    return by_head.transpose(0, 1)
