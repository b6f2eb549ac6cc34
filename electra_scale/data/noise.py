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
    # In place where possible: for so many numbers allocating costs more than computing.
    mixed = x >> np.uint64(30)
    mixed ^= x
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    shifted = mixed >> np.uint64(27)
    mixed ^= shifted
    mixed *= np.uint64(0x94D049BB133111EB)
    np.right_shift(mixed, np.uint64(31), out=shifted)
    mixed ^= shifted
    return mixed


_ROUNDS = 8
"""An even number, so that left and right have their own radices at the end; enough to mix windows of a few rows too."""

_ROUND_KEYS = _mix(np.arange(1, _ROUNDS + 1, dtype=np.uint64) << np.uint64(32))


def hashes(key: int, *parts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64-bit numbers (n,) that depend on ``key``, on every part (n,) and on their order."""
    with np.errstate(over="ignore"):
        mixed = np.full(len(parts[0]), key, dtype=np.uint64)
        for part in parts:
            mixed = _mix(mixed ^ _mix(part.astype(np.uint64) + _GOLDEN)) + _GOLDEN
        return mixed


def permuted(indices: NDArray[np.int64], sizes: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The images of ``indices`` under keyed bijections of [0, ``sizes``); all (n,), 0 <= index < size < 2**62.

    A Feistel network over pairs (left, right) of mixed radix (Black and Rogaway 2002, generalised-Feistel cipher), so
    no table is needed. A pair beyond the size goes through the network again until it falls inside (cycle walking);
    few do, since the radices are about the square root of the size.
    """
    size = sizes.astype(np.uint64)
    high = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    low = (size + high - np.uint64(1)) // np.maximum(high, np.uint64(1))
    found = _feistel(indices.astype(np.uint64), high, low, keys)
    while True:
        outside = np.flatnonzero(found >= size)
        if len(outside) == 0:
            return found.astype(np.int64)
        found[outside] = _feistel(found[outside], high[outside], low[outside], keys[outside])


def _feistel(
    x: NDArray[np.uint64], high: NDArray[np.uint64], low: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """One pass of the network over x < high * low, seen as the pair (x // low, x % low)."""
    left, right = np.divmod(x, low)
    with np.errstate(over="ignore"):
        for number in range(_ROUNDS):
            # The high half of a hash times a radix is a number below the radix, without a division.
            drawn = _mix((keys ^ _ROUND_KEYS[number]) + right * _GOLDEN) >> np.uint64(32)
            moved = left + ((drawn * high) >> np.uint64(32))
            left, right = right, np.where(moved >= high, moved - high, moved)
            high, low = low, high
    return left * low + right


def uniforms(
    seed: int, epochs: NDArray[np.int64], samples: NDArray[np.int64], width: int, purpose: str
) -> NDArray[np.float64]:
    """Numbers in [0, 1), shape (B, width), one row per (epoch, sample); ``purpose`` separates independent uses."""
    counters = _GOLDEN * np.arange(1, width + 1, dtype=np.uint64)
    return _to_unit(_sample_keys(seed, epochs, samples, purpose)[:, None] + counters[None, :])


def uniforms_at(
    seed: int,
    epochs: NDArray[np.int64],
    samples: NDArray[np.int64],
    width: int,
    purpose: str,
    flat: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The numbers (M,) that :func:`uniforms` has at the flat indices ``flat`` (M,) into B x width, and no others."""
    row, column = np.divmod(flat, width)
    with np.errstate(over="ignore"):
        counters = _GOLDEN * (column.astype(np.uint64) + np.uint64(1))
        return _to_unit(_sample_keys(seed, epochs, samples, purpose)[row] + counters)


def _sample_keys(seed: int, epochs: NDArray[np.int64], samples: NDArray[np.int64], purpose: str) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        key = np.uint64(generator_key(seed, purpose))
        epoch = _mix(key + _GOLDEN * (epochs.astype(np.uint64) + np.uint64(1)))
        return _mix(epoch ^ _mix(samples.astype(np.uint64) + _GOLDEN))


def _to_unit(counters: NDArray[np.uint64]) -> NDArray[np.float64]:
    bits = _mix(counters)
    bits >>= np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
