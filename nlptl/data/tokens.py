"""Texts as token ids, stored flat, with an account of what `max_length` cut off."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

TEXTS_PER_CALL = 1000


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts: text `i` is `ids[offsets[i]:offsets[i + 1]]`, special tokens included."""

    ids: np.ndarray
    offsets: np.ndarray
    num_cut_texts: int
    num_cut_tokens: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, shape [len(self)]."""
        return np.diff(self.offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def truncation(self) -> dict[str, float]:
        """Return the shares of texts that were cut, and of tokens that were lost."""
        num_tokens = len(self.ids) + self.num_cut_tokens
        return {
            "cut_texts": self.num_cut_texts / max(len(self), 1),
            "cut_tokens": self.num_cut_tokens / max(num_tokens, 1),
        }


def tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Tokens:
    """Tokenize `texts` and keep at most `max_length` tokens of each, special tokens included."""
    parts: list[np.ndarray] = []
    num_cut_texts = num_cut_tokens = 0
    num_special = tokenizer.num_special_tokens_to_add()
    for start in range(0, len(texts), TEXTS_PER_CALL):
        batch = tokenizer(
            list(texts[start : start + TEXTS_PER_CALL]),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        for encoding in batch.encodings or ():
            parts.append(np.asarray(encoding.ids, dtype=np.int32))
            if encoding.overflowing:
                num_cut_texts += 1
                num_cut_tokens += sum(len(rest.ids) - num_special for rest in encoding.overflowing)
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    return Tokens(ids, offsets, num_cut_texts, num_cut_tokens)


def describe_truncation(tokens: Tokens, *, name: str, max_length: int) -> str:
    """Return one line that says how much of the split `name` lies beyond `max_length`."""
    shares = tokens.truncation()
    return (
        f"{name}: {len(tokens):,} texts, {len(tokens.ids):,} tokens; max_length {max_length} cuts "
        f"{shares['cut_texts']:.1%} of the texts and {shares['cut_tokens']:.1%} of the tokens"
    )


def concatenate(texts: Iterable[str]) -> bytes:
    """Return texts as bytes that differ whenever the texts differ, for hashing."""
    return "".join(f"{len(text)}:{text}" for text in texts).encode("utf-8", errors="surrogatepass")
