"""Long texts in chunks: settings that cannot be obeyed, and flat token ids as one row for each chunk."""

import torch
import torch.nn.functional as F

from nlptl.config import HeadConfig, ReadingConfig, flag
from nlptl.errors import ConfigError
from nlptl.tasks.task import Task


def check_reading(reading: ReadingConfig, head: HeadConfig, task: Task, *, reads_pairs: bool) -> None:
    """Check the settings for long texts; a pooling "auto" passes, and fits once it is resolved.

    Raises:
        ConfigError: If a setting would have no effect, or the head or the task cannot read long texts that way.
    """
    long_text = reading.long_text or "head"
    if long_text != "head" and (task.is_per_token or (reads_pairs and long_text != "tail")):
        what, known = ("pairs", "'head' or 'tail'") if reads_pairs else ("words with tags", "'head'")
        raise ConfigError(f"Expected long_text {known} for {what}, found {long_text!r}. Leave --long-text out.")
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
            f"Expected {', '.join(given)} only with long_text 'chunks', found {found} with {long_text!r}. Pass "
            f"--long-text chunks (long_text of ReadingConfig in Python), or leave {flags} out."
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
