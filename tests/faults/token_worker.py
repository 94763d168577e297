"""Tokenizes texts in a process of its own: `python token_worker.py MODEL_FOLDER OUTPUT_FOLDER SECONDS [READY]`.

Each batch of texts takes `SECONDS` longer. With `READY`, the process begins when that file is there. It leaves the ids
and the number of texts that it has tokenized in the output folder, under its rank.
"""

import os
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import numpy as np
import torch

from nlptl import Classifier, Examples
from nlptl.data.tokens import Tokens
from nlptl.training import token_cache
from nlptl.training.cache import FeatureCache
from nlptl.training.devices import processes

WORDS = ["good", "bad", "film", "story", "great", "dull", "plot", "was", "not", "very"]
TEXTS = [" ".join(WORDS[(i * 7 + 3 * k) % 10] for k in range((i * 5) % 14)) for i in range(205)]


def shrink() -> None:
    """Cache few texts too, and tokenize them in many parts."""
    token_cache.MIN_CHARACTERS, token_cache.BATCHES_BETWEEN_MEETINGS = 1, 3
    token_cache.TEXTS_PER_CALL = 10


def tokenize(folder: Path, cache: FeatureCache | None, *, seconds: float = 0.0) -> tuple[Tokens, int]:
    """Return the token ids of the texts, and how many texts were tokenized for that."""
    model = Classifier.from_pretrained(folder, labels=("negative", "positive"), max_length=9)
    real, texts = model.tokenizer._encode_plus, []

    def count(text: list[str], **kwargs: object) -> object:
        texts.extend(text)
        time.sleep(seconds)
        return real(text, **kwargs)

    model.tokenizer._encode_plus = count
    tokens = token_cache.tokenize_once(model, Examples.from_lists(TEXTS, ["negative"] * len(TEXTS)), cache)
    return tokens, len(texts)


def main(folder: Path, output: Path, seconds: float, ready: Path | None) -> None:
    """Tokenize when it is time to, with what `NLPTL_CACHE` holds, and write what came out."""
    shrink()
    processes()
    (output / f"started-{os.getpid()}").touch()
    while ready is not None and not ready.exists():
        time.sleep(0.001)
    tokens, calls = tokenize(folder, FeatureCache(gigabytes=1), seconds=seconds)
    is_mapped = not tokens.ids.flags.owndata
    rank = os.environ.get("RANK", "0")
    np.savez(output / f"{rank}.npz", ids=tokens.ids, offsets=tokens.offsets, calls=calls, is_mapped=is_mapped)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)
