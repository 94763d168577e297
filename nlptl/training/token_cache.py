"""Tokenize a split once for all runs and all processes of a machine, into a file that each of them maps."""

import json
import logging
from array import array
from collections.abc import Iterator

import numpy as np
import tokenizers
import torch
import transformers
from accelerate.utils import reduce

from nlptl.data.sources import Examples
from nlptl.data.texts import Concatenation
from nlptl.data.tokens import TEXTS_PER_CALL, Tokens, tokenize
from nlptl.model.classifier import Classifier
from nlptl.progress import progress_bar
from nlptl.training.cache import FeatureCache, remove_entry
from nlptl.training.devices import processes
from nlptl.training.run import sha256_of

logger = logging.getLogger(__name__)

FORMAT = 1
"""Increased when the same key would mean other ids."""

MIN_CHARACTERS = 2**20
"""Fewer characters are tokenized in a second or two, which is not worth a file."""

BATCHES_BETWEEN_MEETINGS = 100

IDS, OFFSETS = 0, 1
"""The parts of an entry; the second one ends with the numbers of truncated texts and of tokens cut off."""


def tokenize_once(model: Classifier, examples: Examples, cache: FeatureCache | None) -> Tokens:
    """Return the token ids of a split; those of a large split are mapped from the cache.

    Every process must call this. The main process of a machine fills its cache, and the others wait for it.
    """
    texts = examples.texts
    is_plain = not model.reads_pairs and not model.task.is_per_token
    if cache is None or not is_plain or sum(map(len, texts)) < MIN_CHARACTERS:
        return model.tokenize(texts, examples.pairs)
    # This also sets the state of the tokenizer that tokenizing leaves behind, which is saved with the model.
    first = model.tokenize(texts[:1])
    key = token_key(model, examples)
    is_first, tokens = processes().is_local_main_process, None
    if is_first:
        tokens = _read(cache, key, len(texts), first)
        if tokens is None:
            _write(cache, key, model, examples)
            tokens = _read(cache, key, len(texts), first)
        else:
            count = f"{len(texts):,}"
            logger.info("%s: token ids of %s texts from the cache in %s", examples.split, count, cache.folder)
        cache.finish(key)
    while _anyone(is_at_work=False):
        pass
    if not is_first:
        tokens = _read(cache, key, len(texts), first)
    return model.tokenize(texts) if tokens is None else tokens


def token_key(model: Classifier, examples: Examples) -> str:
    """Return a hash of everything that the token ids of a split depend on."""
    settings = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "transformers": transformers.__version__,
        **model.reading.in_use,
    }
    return sha256_of(
        {
            "settings": json.dumps(settings).encode(),
            "tokenizer": tokenizer_bytes(model),
            "texts": Concatenation(examples.texts),
        }
    )


def tokenizer_bytes(model: Classifier) -> bytes:
    """Return the tokenizer as bytes, in the state that `model.tokenize` leaves behind (it keeps its last settings)."""
    model.tokenize([""], [""] * model.reads_pairs)
    written: str = model.tokenizer.backend_tokenizer.to_str()
    return written.encode()


def _read(cache: FeatureCache, key: str, num_texts: int, first: Tokens) -> Tokens | None:
    ids = cache.read(key, IDS, shape=(None,), dtype="int32")
    table = cache.read(key, OFFSETS, shape=(num_texts + 3,), dtype="int64")
    if ids is None or table is None:
        return None
    tokens = Tokens(ids, table[:-2], int(table[-2]), int(table[-1]))
    is_whole = tokens.offsets[0] == 0 and tokens.offsets[-1] == len(ids) and tokens.lengths.min() >= 0
    if not is_whole or not np.array_equal(tokens[0], first[0]):
        logger.warning("removing cached token ids of other texts from %s", cache.folder)
        remove_entry(cache.folder / "features" / key)
        return None
    return tokens


def _write(cache: FeatureCache, key: str, model: Classifier, examples: Examples) -> None:
    lengths, num_cut = array("i"), np.zeros(2, dtype=np.int64)

    def ids() -> Iterator[np.ndarray]:
        starts = range(0, len(examples), TEXTS_PER_CALL)
        for i, start in enumerate(progress_bar(starts, name=f"tokenizing {examples.split}", total=len(starts))):
            batch = tokenize(examples.texts[start : start + TEXTS_PER_CALL], model.tokenizer, model.reading)
            lengths.extend(batch.lengths)
            num_cut[:] += (batch.num_cut_texts, batch.num_cut_tokens)
            yield batch.ids
            if (i + 1) % BATCHES_BETWEEN_MEETINGS == 0:
                _anyone(is_at_work=True)

    def offsets() -> Iterator[np.ndarray]:
        yield np.zeros(1, dtype=np.int64)
        yield np.cumsum(lengths, dtype=np.int64)
        yield num_cut

    about = {"encoder": model.source, "split": examples.split, "texts": len(examples)}
    about |= {"pooling": "none, token ids", "width": "-"}
    cache.write(key, {IDS: ids(), OFFSETS: offsets()}, about=about)


def _anyone(*, is_at_work: bool) -> bool:
    """Return whether any process is at work. All processes call this regularly, so that none is considered lost."""
    state = processes()
    flag = torch.tensor(int(is_at_work), device=state.device)
    return bool(reduce(flag, "sum")) if state.num_processes > 1 else is_at_work
