"""Long texts in chunks: settings that cannot be obeyed, and flat token ids as one row for each chunk."""

import torch
import torch.nn.functional as F

from nlptl.config import HeadConfig, ReadingConfig, flag
from nlptl.errors import ConfigError


def check_reading(head: HeadConfig, reading: ReadingConfig) -> None:
    """Check the settings for long texts; a pooling "auto" is taken for one that fits.

    Raises:
        ConfigError: If a setting would be ignored, or the head cannot read chunks.
    """
    if reading.in_chunks:
        if head.pooling == "native":
            raise ConfigError(
                "Expected a pooling over hidden states with long_text 'chunks', found pooling 'native': the "
                "architecture's own head reads one chunk. Pass --pooling mean, cls, max or attention (pooling= in "
                "Python), or leave it out for mean; a saved classifier with such a head reads 'head' or 'tail'."
            )
        return
    values: dict[str, object] = {"chunk_overlap": reading.chunk_overlap, "max_chunks": reading.max_chunks}
    values["chunk_pooling"] = None if head.chunk_pooling == "mean" else head.chunk_pooling
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        found = ", ".join(f"{name}={value!r}" for name, value in given.items())
        flags = ", ".join(map(flag, given))
        raise ConfigError(
            f"Expected {', '.join(given)} only with long_text 'chunks', found {found} with {reading.long_text!r}. Pass "
            f"--long-text chunks (long_text of ReadingConfig in Python), or leave {flags} out."
        )


def check_overlap(chunk_overlap: int | None, *, max_length: int, most: int) -> None:
    """Check that a chunk of `max_length` tokens has more of the text than the chunk before.

    Raises:
        ConfigError: If it has more than `most` tokens in common with it.
    """
    if chunk_overlap is not None and chunk_overlap > most:
        raise ConfigError(
            f"Expected chunk_overlap from 0 to {most}, for a chunk of {max_length} tokens, special ones included, "
            f"to go beyond the one before, found {chunk_overlap}. Lower chunk_overlap, raise "
            "--max-length (both are fields of ReadingConfig in Python), or leave chunk_overlap out for a quarter."
        )


def cut_into_chunks(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, length: int, *, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut token ids [batch, tokens] into rows of `length`, or of all tokens if there are fewer.

    Returns:
        Token ids and mask of the chunks that are not padding alone [chunks, length], those of a text one after the
        other; and where they stand: a mask [batch, most chunks of a text].
    """
    length = min(length, input_ids.shape[1])
    missing = -input_ids.shape[1] % length
    chunks = F.pad(input_ids, (0, missing), value=pad_id).view(-1, length)
    mask = F.pad(attention_mask, (0, missing)).view(-1, length)
    has_tokens = mask.any(dim=1)
    return chunks[has_tokens], mask[has_tokens], has_tokens.view(len(input_ids), -1)
