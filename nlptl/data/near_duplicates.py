"""Texts that are nearly the same, within train and across splits: MinHash and locality-sensitive hashing.

A text is the multiset of its words: one word of ten that is changed leaves a Jaccard similarity of 9/11. Each of 126
hash functions keeps the smallest hash of a text (Broder 1997, doi:10.1109/SEQUEN.1997.666900), and texts that agree in
all 7 of one of 18 bands are compared word by word: at a similarity of 0.8 such a band is there with a chance of 98.6 %.

datasketch does the same in 6 kB a text, which is 6 GB for a million; this takes 250 bytes.
"""

import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from nlptl.data.findings import Finding, finding
from nlptl.data.languages import WORD
from nlptl.data.order import stream_key
from nlptl.data.sources import Examples
from nlptl.progress import progress_bar

MIN_SIMILARITY = 0.8
MAX_TEXTS = 1_000_000
"""More texts are not compared: they would take more than 250 MB and some minutes."""

BANDS, ROWS_PER_BAND = 18, 7
HASHES = BANDS * ROWS_PER_BAND
MIN_EQUAL_HASHES = round(0.68 * HASHES)
"""The share of equal hashes is the similarity, give or take 0.036: with fewer than these, words are not compared."""
NEIGHBORS = 2
"""In a band, a text is compared with this many texts before it and with the first: enough among many equal ones."""
TEXTS_AT_ONCE = 1000
PAIRS_AT_ONCE = 2**16
MOST_WORDS_KNOWN = 2**20

# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no blanks between words.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

logger = logging.getLogger(__name__)


def find_near_duplicates(splits: Mapping[str, Examples], is_looked_at: Mapping[str, np.ndarray]) -> list[Finding]:
    """Return findings on near-duplicate texts within train, and between any two splits.

    The first split is train. `is_looked_at` says for each text of each split whether it is compared: not empty, and no
    copy of an earlier one.
    """
    names = list(splits)
    counts = [int(is_looked_at[name].sum()) for name in names]
    if sum(counts) > MAX_TEXTS:
        count = f"{sum(counts):,}"
        logger.warning("not looking for near duplicates among %s texts: the limit is %s", count, f"{MAX_TEXTS:,}")
        return []
    split_of = np.repeat(np.arange(len(names)), counts)
    places = np.concatenate([np.flatnonzero(is_looked_at[name]) for name in names])

    def text_of(i: int) -> str:
        return splits[names[split_of[i]]].texts[int(places[i])]

    like = _partners(text_of, split_of, len(names))
    rows = np.concatenate([np.asarray(splits[name].rows)[is_looked_at[name]] for name in names])
    findings = []
    for first, second in [(0, 0), *((i, j) for j in range(len(names)) for i in range(j))]:
        meant = np.flatnonzero((split_of == second) & (like[first] >= 0))
        if len(meant):
            pair = (rows[meant].tolist(), rows[like[first, meant]].tolist())
            findings.append(_finding(splits[names[second]], names[first], names[second], *pair))
    return findings


def similarity(first: str, second: str) -> float:
    """Return the Jaccard similarity of two texts as multisets of words: shared words by all words."""
    one, two = Counter(shingles(first)), Counter(shingles(second))
    shared = (one & two).total()
    return shared / max(1, one.total() + two.total() - shared)


def shingles(text: str) -> list[str]:
    """Return the words of a text without case; in a language without blanks, all runs of three characters."""
    folded = text.casefold()
    words = WORD.findall(folded)
    if words and (folded.isascii() or len(_UNSPACED.findall(folded)) <= len(words)):
        return words
    return [folded[i : i + 3] for i in range(max(1, len(folded) - 2))]


def _partners(text_of: Callable[[int], str], split_of: np.ndarray, num_splits: int) -> np.ndarray:
    """Return for each split and text an earlier text of that split that is like it, or -1 [splits, texts]."""
    like = np.full((num_splits, len(split_of)), -1, dtype=np.int32)
    bands, signatures = _hash(text_of, len(split_of))
    for band in bands:
        for earlier, later in _candidates(band):
            equal = (signatures[earlier] == signatures[later]).sum(axis=1)
            for i, j in zip(*(side[equal >= MIN_EQUAL_HASHES].tolist() for side in (earlier, later)), strict=True):
                if like[split_of[i], j] < 0 and similarity(text_of(i), text_of(j)) >= MIN_SIMILARITY:
                    like[split_of[i], j] = i
    return like


def _candidates(band: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of texts that agree in a band [texts], as earlier and later ones, some pairs at a time."""
    order = np.argsort(band, kind="stable")
    ascending = band[order]
    is_first = np.concatenate([[True], ascending[1:] != ascending[:-1]])[: len(band)]
    starts = np.maximum.accumulate(np.where(is_first, np.arange(len(band)), 0))
    for distance in (*range(1, NEIGHBORS + 1), 0):
        later = np.flatnonzero(np.arange(len(band)) - starts >= (distance or NEIGHBORS + 1))
        earlier = later - distance if distance else starts[later]
        for k in range(0, len(later), PAIRS_AT_ONCE):
            yield order[earlier[k : k + PAIRS_AT_ONCE]], order[later[k : k + PAIRS_AT_ONCE]]


def _hash(text_of: Callable[[int], str], num_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for each band and text, uint32 [BANDS, texts], and 8 bits of each hash, uint8 [texts, HASHES]."""
    bands = np.zeros((BANDS, num_texts), dtype=np.uint32)
    signatures = np.zeros((num_texts, HASHES), dtype=np.uint8)
    draws = np.random.default_rng(stream_key("near duplicates")).integers(2**32, size=(2, HASHES), dtype=np.uint32)
    factors, summands = draws[0] | np.uint32(1), draws[1]
    known: dict[str, int] = _Checksums()
    with progress_bar(name="near duplicates", total=num_texts, unit=" texts") as bar:
        for start in range(0, num_texts, TEXTS_AT_ONCE):
            part = slice(start, min(start + TEXTS_AT_ONCE, num_texts))
            if len(known) > MOST_WORDS_KNOWN:
                known.clear()
            words = [list(map(known.__getitem__, shingles(text_of(i)))) for i in range(part.start, part.stop)]
            hashes, starts = _number_repeats(words)
            buffer = np.empty_like(hashes)
            for i in range(HASHES):
                np.multiply(hashes, factors[i], out=buffer)
                np.add(buffer, summands[i], out=buffer)
                smallest = np.minimum.reduceat(buffer, starts)
                signatures[part, i] = smallest >> np.uint32(16)
                bands[i // ROWS_PER_BAND, part] = _mix(bands[i // ROWS_PER_BAND, part] ^ smallest)
            bar.update(part.stop - part.start)
    return bands, signatures


class _Checksums(dict[str, int]):
    """The CRC-32 of each word, computed once: Python's own hash of a word differs between processes."""

    def __missing__(self, word: str) -> int:
        value = self[word] = zlib.crc32(word.encode("utf-8", errors="surrogatepass"))
        return value


def _number_repeats(words: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the words of all texts as hashes, with another hash for each repeat, and where each text starts."""
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = np.fromiter((word for text in words for word in text), dtype=np.uint64, count=int(lengths.sum()))
    # Sorted by text and then by word, so that repeats stand together.
    flat |= np.repeat(np.arange(len(words), dtype=np.uint64), lengths) << np.uint64(32)
    flat.sort()
    index = np.arange(len(flat))
    is_new = np.concatenate([[True], flat[1:] != flat[:-1]])
    repeats = index - np.maximum.accumulate(np.where(is_new, index, 0))
    return _mix(flat.astype(np.uint32) + repeats.astype(np.uint32) * np.uint32(0x9E3779B9)), starts


def _mix(x: np.ndarray) -> np.ndarray:
    """Return a permutation of 32-bit numbers that spreads every bit (lowbias32 of Wellons, 2018)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return np.asarray(x ^ (x >> np.uint32(16)))


def _finding(examples: Examples, first: str, second: str, rows: list[int], like: list[int]) -> Finding:
    where = f"in {first}" if first == second else f"between {second} and {first}"
    shown = ", ".join(f"{i} ~ {j}" for i, j in zip(rows[:5], like, strict=False))
    count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    message = f"{examples.source}: near-duplicate texts {where}: {count} ({shown}{', ...' if len(rows) > 5 else ''})"
    return finding("near_duplicate" if first == second else "near_leak", message, rows=rows, like=like)
