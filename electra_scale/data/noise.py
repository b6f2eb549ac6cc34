"""Random numbers from keys: the same sample gets the same numbers on any rank, at any world size, after any resume."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def generator_key(*parts: object) -> int:
    """A 64-bit key that depends on every part and on their order."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that leaves no visible pattern."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(
    seed: int, epochs: NDArray[np.int64], samples: NDArray[np.int64], width: int, purpose: str
) -> NDArray[np.float64]:
    """Numbers in [0, 1), shape (B, width), one row per (epoch, sample); ``purpose`` separates independent uses."""
    with np.errstate(over="ignore"):
        key = np.uint64(generator_key(seed, purpose))
        row = _mix(
            _mix(key + _GOLDEN * (epochs.astype(np.uint64) + np.uint64(1))) ^ _mix(samples.astype(np.uint64) + _GOLDEN)
        )
        counters = _GOLDEN * np.arange(1, width + 1, dtype=np.uint64)
        bits = _mix(row[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
