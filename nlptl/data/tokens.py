"""Texts as token ids, stored flat, with an account of what `max_length` cut off."""

import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from tokenizers import Encoding
from transformers import BatchEncoding, PreTrainedTokenizerBase

from nlptl.config import LongText, ReadingConfig

TEXTS_PER_CALL = 1000
_IDS_ALONE = {"return_attention_mask": False, "return_token_type_ids": False}
_one_call_at_a_time = threading.Lock()
HEAD_SHARE = 0.25
"""Fraction of the kept tokens that "head-tail" takes from the beginning of a long text: Sun et al. (2019,
arXiv:1905.05583, section 5.3.1) take 128 of 510 tokens."""
MAX_CHUNKS = 16
"""Default limit on the chunks of a text."""
OVERLAP_SHARE = 0.25
"""Default fraction of a chunk that repeats the end of the one before: tokens at the border of one chunk have their
context in the other."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts: text `i` is `ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    The ids of a text that is read in chunks are those of its chunks, each with its special tokens; all chunks but the
    last have max_length tokens. The arrays are in memory, or mapped from a file.
    """

    ids: np.ndarray
    offsets: np.ndarray
    num_cut_texts: int
    num_cut_tokens: int
    types: np.ndarray | None = None
    """Of pairs, 0 for tokens of the first text and 1 for those of the second, int8; None without such types."""
    words: np.ndarray | None = None
    """Of texts whose words have tags, for the first token of each word the number of the word, else -1, int32."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each text, int32 [len(self)]."""
        return np.diff(self.offsets).astype(np.int32)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def words_of(self, index: int) -> np.ndarray:
        """Return `words` of one text."""
        assert self.words is not None
        return self.words[self.offsets[index] : self.offsets[index + 1]]

    def truncation(self) -> dict[str, float]:
        """Return the fractions of texts cut and of tokens lost; a token that two chunks read counts twice."""
        num_tokens = len(self.ids) + self.num_cut_tokens
        return {
            "cut_texts": self.num_cut_texts / max(len(self), 1),
            "cut_tokens": self.num_cut_tokens / max(num_tokens, 1),
        }


def tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, reading: ReadingConfig) -> Tokens:
    """Tokenize `texts` and keep at most `max_length` tokens of each, or of each of its chunks, special tokens included.

    A chunk begins with the last `chunk_overlap` tokens of the one before, special tokens not counted.
    """
    num_special, long_text = tokenizer.num_special_tokens_to_add(), reading.long_text
    overlap, num_kept = overlap_of_chunks(tokenizer, reading), num_chunks(reading)
    settings: dict[str, Any] = {"truncation": True, "max_length": reading.max_length, "stride": overlap, **_IDS_ALONE}
    ids, lengths, num_cut, num_lost = array("i"), array("i"), 0, 0
    for start in range(0, len(texts), TEXTS_PER_CALL):
        part = list(texts[start : start + TEXTS_PER_CALL])
        for encoding in call_tokenizer(tokenizer, part, long_text=long_text, **settings).encodings or ():
            chunks = [encoding, *encoding.overflowing]
            rest = chunks[num_kept:]
            if rest and long_text == "head-tail":
                kept = _both_ends(encoding)
            else:
                kept = [i for chunk in chunks[:num_kept] for i in chunk.ids]
            ids.extend(kept)
            lengths.append(len(kept))
            num_cut += bool(rest)
            num_lost += sum(len(chunk.ids) - num_special - overlap for chunk in rest)
    return Tokens(np.array(ids), _offsets(lengths), num_cut, num_lost)


def call_tokenizer(
    tokenizer: PreTrainedTokenizerBase, *texts: Sequence[str], long_text: LongText | None = None, **settings: Any
) -> BatchEncoding:
    """Return `tokenizer(*texts, **settings)`; longer texts lose their beginning with long_text "tail", else their end.

    One call at a time, since the tokenizer stores the settings of a call before it reads the texts.
    """
    with _one_call_at_a_time:
        tokenizer.truncation_side = "left" if long_text == "tail" else "right"
        found: BatchEncoding = tokenizer(*texts, **settings)
    return found


def overlap_of_chunks(tokenizer: PreTrainedTokenizerBase, reading: ReadingConfig) -> int:
    """Return how many tokens consecutive chunks share; 0 if texts are not read in chunks."""
    if not reading.in_chunks or reading.chunk_overlap is not None:
        return reading.chunk_overlap or 0
    max_length = reading.max_length or 0
    return min(int(max_length * OVERLAP_SHARE), max_length - tokenizer.num_special_tokens_to_add() - 1)


def num_chunks(reading: ReadingConfig) -> int:
    """Return how many chunks of a text are read at most; 1 if texts are not read in chunks."""
    return (reading.max_chunks or MAX_CHUNKS) if reading.in_chunks else 1


def _both_ends(encoding: Encoding) -> list[int]:
    """Return as many ids as `encoding` has, which was cut, of the beginning and the end of the text."""
    ids, is_special = encoding.ids, encoding.special_tokens_mask
    num_before = next(i for i, flag in enumerate(is_special) if not flag)
    num_kept = len(ids) - sum(is_special)
    num_head = int(num_kept * HEAD_SHARE)
    pieces = [encoding, *encoding.overflowing]
    content = [i for piece in pieces for i, flag in zip(piece.ids, piece.special_tokens_mask, strict=True) if not flag]
    kept = content[:num_head] + content[len(content) - (num_kept - num_head) :]
    return ids[:num_before] + kept + ids[num_before + num_kept :]


def tokenize_pairs(
    texts: Sequence[str],
    pairs: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    long_text: LongText | None = None,
    with_types: bool = True,
) -> Tokens:
    """Tokenize pairs of texts as the tokenizer joins them; of a pair that is too long, the longer text loses tokens.

    `with_types` says whether the encoder tells the two texts apart by types of tokens.
    """
    ids, types, lengths, num_cut, num_lost = array("i"), array("b"), array("i"), 0, 0
    has_types = with_types and "token_type_ids" in tokenizer.model_input_names
    settings: dict[str, Any] = {"long_text": long_text, **_IDS_ALONE, "return_token_type_ids": has_types}
    for start in range(0, len(texts), TEXTS_PER_CALL):
        batch = slice(start, start + TEXTS_PER_CALL)
        encode = partial(call_tokenizer, tokenizer, list(texts[batch]), list(pairs[batch]), **settings)
        found = encode()
        is_long = [len(each) > max_length for each in found["input_ids"]]
        if any(is_long):
            whole, found = found, encode(truncation="longest_first", max_length=max_length)
            num_cut += sum(is_long)
            num_lost += sum(map(len, whole["input_ids"])) - sum(map(len, found["input_ids"]))
        for each in found["input_ids"]:
            ids.extend(each)
            lengths.append(len(each))
        for each in found["token_type_ids"] if has_types else ():
            types.extend(each)
    return Tokens(np.array(ids), _offsets(lengths), num_cut, num_lost, types=np.array(types) if has_types else None)


def tokenize_words(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Tokens:
    """Tokenize texts of words separated by single blanks, with the word that each token is the first one of."""
    ids, words, lengths, num_cut, num_lost = array("i"), array("i"), array("i"), 0, 0
    num_special = tokenizer.num_special_tokens_to_add()
    for start in range(0, len(texts), TEXTS_PER_CALL):
        part = list(texts[start : start + TEXTS_PER_CALL])
        encodings = call_tokenizer(tokenizer, part, truncation=True, max_length=max_length).encodings
        for text, encoding in zip(part, encodings or (), strict=True):
            ids.extend(encoding.ids)
            words.extend(_first_tokens(text, encoding).tolist())
            lengths.append(len(encoding.ids))
            num_cut += bool(encoding.overflowing)
            num_lost += sum(len(rest.ids) - num_special for rest in encoding.overflowing)
    return Tokens(np.array(ids), _offsets(lengths), num_cut, num_lost, words=np.array(words))


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _first_tokens(text: str, encoding: Encoding) -> np.ndarray:
    """Return for each token the number of the word that it is the first one of, or -1."""
    spans = np.array(encoding.offsets).reshape(-1, 2)
    is_blank = np.fromiter((character == " " for character in text), dtype=bool, count=len(text))
    # Where a tokenizer counts the blank before a word to its first token, that begins one character later.
    starts = np.minimum(spans[:, 0], max(len(text) - 1, 0))
    starts = starts + (is_blank[starts] if len(text) else 0)
    word = np.concatenate([[0], np.cumsum(is_blank)])[starts]
    is_of_text = (spans[:, 1] > spans[:, 0]) & (np.array(encoding.special_tokens_mask) == 0)
    found = np.full(len(spans), -1, dtype=np.int32)
    places = np.flatnonzero(is_of_text)
    is_first = np.concatenate([[True], word[places][1:] != word[places][:-1]]) if len(places) else places
    found[places[is_first]] = word[places[is_first]]
    return found


def describe_truncation(tokens: Tokens, reading: ReadingConfig, *, name: str) -> str:
    """Return a line that says how much of the split `name` is cut off."""
    shares = tokens.truncation()
    chunks = f" in {num_chunks(reading)} chunks" if reading.in_chunks else ""
    return (
        f"{name}: {len(tokens):,} texts, {len(tokens.ids):,} tokens; max_length {reading.max_length}{chunks} cuts "
        f"{shares['cut_texts']:.1%} of the texts and {shares['cut_tokens']:.1%} of the tokens"
    )
