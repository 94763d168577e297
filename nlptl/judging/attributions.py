"""The weight of each word in a prediction: integrated gradients (Sundararajan, Taly and Yan 2017, arXiv:1703.01365).

The explained value is the log-odds of a label, or a predicted number. Gradients are integrated along the straight line
from the embeddings of mask tokens to those of the text; the weights of all tokens add up to the change of the value.
"""

import logging
import re
from bisect import bisect_right
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch

from nlptl.config import ClassificationConfig
from nlptl.data.batches import collate
from nlptl.data.sources import Examples
from nlptl.data.tokens import HEAD_SHARE, call_tokenizer, overlap_of_chunks
from nlptl.errors import ConfigError
from nlptl.judging.outcomes import Outcomes
from nlptl.model.classifier import Classifier

STEPS = 32
MOST_STEPS = 512
TOLERANCE = 0.01
"""Largest error of the sum of the weights, relative to the change; above it, more steps are taken."""
TOKENS_AT_ONCE = 2048
BETWEEN = "||"
"""Separator between the words of the texts of a pair."""

logger = logging.getLogger(__name__)


class Attribution(NamedTuple):
    """The weight of each word of a text, and their exact sum."""

    words: list[tuple[str, float]]
    change: float
    """The explained value of the text minus that of as many mask tokens."""


class _Token(NamedTuple):
    """A token that the model reads: its text (0 or 1; None for a special token), and its place text[start:end]."""

    id: int
    text: int | None
    start: int
    end: int


def check_explain(config: ClassificationConfig) -> None:
    """Refuse --explain before training if it cannot be obeyed.

    Raises:
        ConfigError: If captum is not installed, or the task has no prediction for each text.
    """
    if not config.judging.explain:
        return
    if find_spec("captum") is None:
        raise ConfigError(
            "Expected the package captum, which --explain needs, found none. Run: pip install 'nlptl[explain]'"
        )
    if config.task == "tokens":
        raise ConfigError(
            "Expected a prediction for each text for --explain, found the task tokens. Leave --explain out."
        )


def explain(model: Classifier, examples: Examples, outcomes: Outcomes, count: int) -> list[dict[str, Any]]:
    """Explain `count` texts: the most confident mistakes, and two fifths right predictions.

    Each has the "row", its "label", the "predicted" label, the explained label or output "target", and "tokens": the
    words with their weights, see `attribute`.
    """
    found = []
    for i in _chosen(outcomes, count):
        target = int(outcomes.decisive[i])
        text, pair = examples.texts[i], examples.pairs[i] if len(examples.pairs) else None
        attribution = attribute(model, text, pair, target=target)
        found.append(
            {
                "row": int(examples.rows[i]),
                "label": outcomes.labels[i],
                "predicted": outcomes.predicted[i],
                "target": model.task.names[target],
                "tokens": [list(each) for each in attribution.words],
            }
        )
    return found


def _chosen(outcomes: Outcomes, count: int) -> list[int]:
    """Return the indices of the examples to explain: the most confident wrong ones and right ones."""
    sureness = np.nan_to_num(outcomes.confidences, nan=0.0)
    if not outcomes.label_sets:  # numbers are neither right nor wrong
        order = np.argsort(-outcomes.losses, kind="stable").tolist()
        num_right = min(count * 2 // 5, len(order) // 2)
        return [*order[: count - num_right], *order[::-1][:num_right]]
    wrong, right = (
        part[np.lexsort((outcomes.losses[part], -sureness[part]))].tolist()
        for part in (np.flatnonzero(outcomes.is_wrong), np.flatnonzero(~outcomes.is_wrong))
    )
    num_right = max(count * 2 // 5, count - len(wrong))
    return [*wrong[: count - num_right], *right[:num_right]]


def attribute(model: Classifier, text: str, pair: str | None = None, *, target: int) -> Attribution:
    """Return the weight of each word of a text in a prediction.

    Words are separated by spaces; words beyond max_length are left out. `pair` is the second text of a pair, and
    `target` the index in `model.task.names` of the label or output to explain.
    """
    from captum.attr import LayerIntegratedGradients

    texts = [text] if pair is None else [text, pair]
    batch = collate(
        model.tokenize([text], [] if pair is None else [pair]), np.array([0]), pad_id=model.pad_id, device=model.device
    )
    ids = batch["input_ids"]
    tokens = read_tokens(model, texts)
    assert [token.id for token in tokens] == ids[0].tolist()
    is_special = torch.tensor([token.text is None for token in tokens], device=ids.device)
    mask_id = model.tokenizer.mask_token_id
    baseline = torch.where(is_special, ids, model.pad_id if mask_id is None else mask_id)
    others = {name: value for name, value in batch.items() if name != "input_ids"}

    def explained(ids: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        logits = model(ids, **dict(zip(others, values, strict=True)))
        return log_odds(model, logits, target)

    with model.lock:  # captum hooks the embeddings
        model.eval()
        gradients = LayerIntegratedGradients(explained, model.network.base_model.get_input_embeddings())
        with torch.no_grad():
            change = float(explained(ids, *others.values()) - explained(baseline, *others.values()))
        steps = STEPS
        while True:
            parts = gradients.attribute(
                ids,
                baselines=baseline,
                additional_forward_args=tuple(others.values()),
                n_steps=steps,
                internal_batch_size=max(1, TOKENS_AT_ONCE // ids.shape[1]),
            )
            found = parts.detach().double().sum(dim=-1).reshape(-1)[: len(tokens)].cpu().numpy()
            missed = abs(float(found.sum()) - change)
            if missed <= TOLERANCE * max(abs(change), 0.1) or steps >= MOST_STEPS:
                break
            steps *= 4
    if missed > TOLERANCE * max(abs(change), 0.1):
        logger.warning("the weights of the words miss %.3f of a change of %.3f after %d steps", missed, change, steps)
    return Attribution(_by_word(texts, tokens, found), change)


def log_odds(model: Classifier, logits: torch.Tensor, target: int) -> torch.Tensor:
    """Return the log-odds of a label, or a predicted number, from logits [texts, names]: shape [texts]."""
    if model.task.kind in ("regression", "multi_label"):  # the logit of a label is its log-odds
        return logits[:, target]
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - others.logsumexp(dim=1)


def read_tokens(model: Classifier, texts: Sequence[str]) -> list[_Token]:
    """Return the tokens that the model reads of a text or a pair, in the order of `model.tokenize`."""
    tokenizer, long_text = model.tokenizer, model.reading.long_text
    encodings = call_tokenizer(
        tokenizer,
        *([text] for text in texts),
        long_text=long_text,
        truncation="longest_first" if len(texts) > 1 else True,
        max_length=model.max_length,
        stride=overlap_of_chunks(tokenizer, model.reading),
    ).encodings
    assert encodings
    encoding = encodings[0]
    pieces = [encoding, *encoding.overflowing] if len(texts) == 1 else [encoding]
    tokens = [
        [
            _Token(token, None if special else sequence, *place)
            for token, special, sequence, place in zip(
                piece.ids, piece.special_tokens_mask, piece.sequence_ids, piece.offsets, strict=True
            )
        ]
        for piece in pieces
    ]
    if model.reading.in_chunks:
        return [token for piece in tokens[: model.reading.max_chunks] for token in piece]
    if long_text != "head-tail" or len(tokens) == 1:
        return tokens[0]
    first = tokens[0]
    places = [i for i, token in enumerate(first) if token.text is not None]
    content = [token for piece in tokens for token in piece if token.text is not None]
    num_head = int(len(places) * HEAD_SHARE)
    kept = content[:num_head] + content[len(content) - (len(places) - num_head) :]
    return [*first[: places[0]], *kept, *first[places[-1] + 1 :]]


def _by_word(texts: Sequence[str], tokens: Sequence[_Token], parts: np.ndarray) -> list[tuple[str, float]]:
    """Return each word with the sum of the weights of its tokens."""
    found: list[tuple[str, float]] = []
    for number, text in enumerate(texts):
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        starts = [start for start, _ in spans]
        sums: dict[int, float] = {}
        for token, part in zip(tokens, parts.tolist(), strict=True):
            if token.text == number and token.end > token.start:
                # Some tokenizers count the space before a word as part of its first token; none the space after it.
                word = bisect_right(starts, token.end - 1) - 1
                sums[word] = sums.get(word, 0.0) + part
        found += [(BETWEEN, 0.0)] if number else []
        found += [(text[slice(*spans[word])], sums[word]) for word in sorted(sums)]
    return found
