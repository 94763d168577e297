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
