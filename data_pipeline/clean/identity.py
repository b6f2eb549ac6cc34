"""What a document is known by: the hash of its cleaned text, and what follows from it."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

HASH_BYTES = 16


def content_hash(data: bytes) -> bytes:
    """128-bit BLAKE2b of cleaned text in UTF-8: 8 bytes of document id, then 8 that choose the split."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def hash_halves(hashes: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Split (n, 16) hash bytes into document ids (n,) and split keys (n,), both little-endian uint64."""
    words = np.ascontiguousarray(hashes).view("<u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def held_out_mask(keys: npt.NDArray[np.uint64], held_out: float) -> npt.NDArray[np.bool_]:
    """Which documents go to the split heldout, (n,): the hash alone decides."""
    return keys < np.uint64(int(held_out * 2.0**64))
