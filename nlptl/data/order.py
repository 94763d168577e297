"""Everything random is a pure function of names and numbers, so that nothing random has to be saved."""

import hashlib

import numpy as np


def stream_key(*parts: str | int) -> int:
    """Return a 64-bit seed for the stream of random numbers that `parts` name."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


def order(n: int, *parts: str | int) -> np.ndarray:
    """Return a permutation of range(n) that depends on n and `parts` alone, on any machine and version.

    The indices are sorted by a 64-bit hash of each (SplitMix64: Steele, Lea and Flood 2014,
    doi:10.1145/2660193.2660195).
    """
    z = np.arange(n, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(stream_key("order", *parts))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return np.argsort(z, kind="stable")


def balanced_order(labels: np.ndarray, *stream: str | int) -> np.ndarray:
    """Return len(labels) indices in which every class that occurs has the same number of places, give or take one.

    A class goes through all its examples, each time in a new permutation, before one repeats: of a class with more
    examples than places a random part is drawn. Which classes have the place more is random as well.

    Args:
        labels: Label ids, integers [examples].
        stream: Names the stream of random numbers, such as by seed and epoch. The indices depend on it and on
            `labels` alone, on any machine and version.
    """
    classes, counts = np.unique(labels, return_counts=True)
    members = np.split(np.argsort(labels, kind="stable"), counts.cumsum())
    places, extra = divmod(len(labels), max(len(classes), 1))
    has_extra = order(len(classes), "balanced", *stream) < extra
    chosen = [
        of_class[_passes(len(of_class), places + more, "balanced", int(label), *stream)]
        for label, of_class, more in zip(classes, members[:-1], has_extra, strict=True)
    ]
    class_by_class = np.concatenate([np.empty(0, np.int64), *chosen])
    return np.asarray(class_by_class[order(len(labels), "balanced places", *stream)])


def _passes(n: int, places: int, *parts: str | int) -> np.ndarray:
    """Return the first `places` of permutations of range(n) in a row, each of them another one."""
    num_passes = -(-places // n)
    shuffled = order(num_passes * n, *parts)
    pass_by_pass = shuffled[np.argsort(shuffled // n, kind="stable")] % n
    return np.asarray(pass_by_pass[:places])
