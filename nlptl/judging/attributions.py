"""Which words speak for what is predicted: integrated gradients (Sundararajan, Taly and Yan 2017, arXiv:1703.01365).

What is explained is the log-odds of a label, or a score. The embeddings of the words go from those of mask tokens to
their own, in a straight line; what a token adds on the way is its part, and all parts add up to the change of what is
explained.
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
"""Of the change of the whole, how much of it all parts may miss; otherwise more steps are taken."""
TOKENS_AT_ONCE = 2048
BETWEEN = "||"
"""Between the words of the two texts of a pair."""

logger = logging.getLogger(__name__)


class Attribution(NamedTuple):
    """What each word of a text adds to the log-odds of a label, or to a score, and what all add up to."""

    words: list[tuple[str, float]]
    change: float
    """The log-odds or score of the text minus that of as many mask tokens."""


class _Token(NamedTuple):
    """A token that is read: of which text (0 or 1; None: a special token), and text[start:end]."""

    id: int
    text: int | None
    start: int
    end: int


def check_explain(config: ClassificationConfig) -> None:
    """Refuse --explain, before anything is trained, where it cannot be obeyed.

    Raises:
        ConfigError: If captum is not installed, or the task has no prediction for each text.
    """
    if not config.judging.explain:
        return
    if find_spec("captum") is None:
        raise ConfigError(
            "Expected the package captum, which --explain needs, found none in this environment. Run: pip install "
            "'nlptl[explain]'"
        )
    if config.task == "tokens":
        raise ConfigError(
            "Expected a prediction for each text for --explain, found the task tokens. Leave --explain out."
        )


def explain(model: Classifier, examples: Examples, outcomes: Outcomes, count: int) -> list[dict[str, Any]]:
    """Return what the words of `count` texts add: of the most confident mistakes, and of two fifths right ones.

    Each has the "row", its "label" and what was "predicted", the "target", the label or score that is explained, and
    the "tokens": words with what each adds, see `attribute`.
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
    """Return the examples that are explained: the surest of the wrong ones and of the right ones."""
    sureness = np.nan_to_num(outcomes.confidences, nan=0.0)
    if not outcomes.label_sets:  # scores are neither right nor wrong
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
    """Return what each word of a text adds to what is predicted.

    Words are what stands between blanks; those that are not read, beyond max_length, are left out.

    Args:
        model: The trained model.
        text: The text.
        pair: The second text, where pairs are read.
        target: The label, or the score, that is explained, by its place in `model.task.names`.
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

    with model.lock:  # the gradients come by hooks on its embeddings
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
        logger.warning("of a change of %.3f, the parts of the words miss %.3f after %d steps", change, missed, steps)
    return Attribution(_by_word(texts, tokens, found), change)


def log_odds(model: Classifier, logits: torch.Tensor, target: int) -> torch.Tensor:
    """Return the log-odds of a label, or a score, from logits [texts, names]: shape [texts]."""
    if model.task.kind in ("regression", "multi_label"):  # where the logit of a label is its log-odds
        return logits[:, target]
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - others.logsumexp(dim=1)


def read_tokens(model: Classifier, texts: Sequence[str]) -> list[_Token]:
    """Return the tokens that the model reads of a text, or of two as a pair, as `model.tokenize` gives them."""
    tokenizer, long_text = model.tokenizer, model.long_text
    overlap = overlap_of_chunks(tokenizer, model.max_length, model.chunk_overlap) if model.reads_chunks else 0
    encodings = call_tokenizer(
        tokenizer,
        *([text] for text in texts),
        long_text=long_text,
        truncation="longest_first" if len(texts) > 1 else True,
        max_length=model.max_length,
        stride=overlap,
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
    if model.reads_chunks:
        return [token for piece in tokens[: model.max_chunks] for token in piece]
    if long_text != "head-tail" or len(tokens) == 1:
        return tokens[0]
    first = tokens[0]
    places = [i for i, token in enumerate(first) if token.text is not None]
    content = [token for piece in tokens for token in piece if token.text is not None]
    num_head = int(len(places) * HEAD_SHARE)
    kept = content[:num_head] + content[len(content) - (len(places) - num_head) :]
    return [*first[: places[0]], *kept, *first[places[-1] + 1 :]]


def _by_word(texts: Sequence[str], tokens: Sequence[_Token], parts: np.ndarray) -> list[tuple[str, float]]:
    """Add up the parts of the tokens of each word."""
    found: list[tuple[str, float]] = []
    for number, text in enumerate(texts):
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        starts = [start for start, _ in spans]
        sums: dict[int, float] = {}
        for token, part in zip(tokens, parts.tolist(), strict=True):
            if token.text == number and token.end > token.start:
                # Some tokenizers count the blank before a word to its first token, none the one after it.
                word = bisect_right(starts, token.end - 1) - 1
                sums[word] = sums.get(word, 0.0) + part
        found += [(BETWEEN, 0.0)] if number else []
        found += [(text[slice(*spans[word])], sums[word]) for word in sorted(sums)]
    return found
