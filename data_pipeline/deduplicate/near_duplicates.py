"""Near-duplicate documents: MinHash signatures cut into bands, through datasketch.

Two documents whose five-word shingles have the Jaccard similarity s agree in all r rows of one band with
probability s**r, and share at least one of b bands with probability 1 - (1 - s**r)**b: Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", section 3.4. Where text has no blanks, characters take the place of words
(:mod:`data_pipeline.clean.words`).
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from data_pipeline.clean.words import words_of
from data_pipeline.extras import needs_extra

SHINGLE_WORDS = 5
PERMUTATIONS = 128
# datasketch's default; another one would give other keys.
_SEED = 1
# Words are hashed by a polynomial over their bytes, modulo 2**64; a block is what one table of powers covers.
_BLOCK_BYTES = 1 << 16
_BASE = 0x9E3779B97F4A7C15
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
# As many shingles at once as keep the products (128 of them for each) in the processor's cache.
_BATCH_SHINGLES = 256


class Signatures:
    """Keys under which documents of about a similarity or above meet.

    The keys depend on the text alone: not on the process, the machine or PYTHONHASHSEED.

    Args:
        similarity: Jaccard similarity of the sets of five-word shingles, between 0 and 1, around which the
            probability to share a key rises.

    Raises:
        UserError: datasketch is not installed.
    """

    def __init__(self, similarity: float) -> None:
        with needs_extra("near", "datasketch", "clean.near_duplicates", "leave it out"):
            from datasketch import MinHash
        self.bands, self.rows = bands_and_rows(similarity)
        self._permutations = MinHash(PERMUTATIONS, seed=_SEED, scheme="affine32").permutations

    def values(self, text: str) -> npt.NDArray[np.uint32]:
        """The MinHash signature, shape (128,): what datasketch's update_batch makes of the shingles' hashes."""
        factors, offsets = self._permutations
        hashes = _finalized(shingle_hashes(text))
        lowest = np.full(PERMUTATIONS, 0xFFFFFFFF, np.uint32)
        for begin in range(0, len(hashes), _BATCH_SHINGLES):
            products = hashes[begin : begin + _BATCH_SHINGLES, None] * factors
            products += offsets
            np.minimum(lowest, products.min(axis=0), out=lowest)
        return lowest

    def keys(self, text: str) -> npt.NDArray[np.uint64]:
        """One key per band, shape (bands,), uint64; keys of different bands are not meant to be compared."""
        values = self.values(text).astype("<u4").tobytes()
        width = 4 * self.rows
        digests = [
            hashlib.blake2b(values[band * width : (band + 1) * width], digest_size=8).digest()
            for band in range(self.bands)
        ]
        return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def bands_and_rows(similarity: float) -> tuple[int, int]:
    """Bands b and rows r, b * r at most 128, whose rise at (1/b)**(1/r) is nearest to the similarity."""

    def distance(rows: int) -> float:
        return abs((1 / (PERMUTATIONS // rows)) ** (1 / rows) - similarity)

    rows = min(range(1, PERMUTATIONS // 2 + 1), key=distance)
    return PERMUTATIONS // rows, rows


def shingle_hashes(text: str) -> npt.NDArray[np.uint32]:
    """A 32-bit hash of every run of five words (lower-cased, split at white space); of all words if they are fewer."""
    text = text.lower()
    found, apart = words_of(text)
    words = _word_hashes((" ".join(found) if apart else text).encode("utf-8"))
    length = min(SHINGLE_WORDS, len(words))
    shingles = max(1, len(words) - length + 1)
    mixed = np.zeros(shingles, np.uint64)
    for offset in range(length):
        mixed *= _MULTIPLIER
        mixed += words[offset : offset + shingles]
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _finalized(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's 32-bit finalizer, which datasketch puts before its permutations."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def _word_hashes(data: bytes) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every word (run of bytes above 0x20) of UTF-8 text, in order."""
    letters, powers, inverses = _tables()
    found: list[npt.NDArray[np.uint64]] = []
    data = data.translate(_WHITE_SPACE)
    begin = 0
    while begin < len(data):
        end = begin + _BLOCK_BYTES
        if end < len(data):
            # A word longer than a block is cut.
            space_before = data.rfind(b" ", begin + 1, end)
            end = space_before if space_before > 0 else end
        block = np.frombuffer(data, np.uint8)[begin:end]
        space = block == 0x20
        starts = np.flatnonzero(space[:-1] & ~space[1:]) + 1
        if not space[0]:
            starts = np.concatenate(([0], starts))
        if len(starts):
            values = letters[block] * powers[: len(block)]
            found.append(np.add.reduceat(values, starts) * inverses[starts])
        begin = end
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


_WHITE_SPACE = b" " * 0x21 + bytes(range(0x21, 0x100))


@functools.lru_cache(maxsize=1)
def _tables() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """A value for each byte (0 for a space), the powers of the base, and their inverses modulo 2**64."""
    letters = np.frombuffer(hashlib.shake_128(b"letters").digest(256 * 8), "<u8").astype(np.uint64)
    letters[0x20] = 0
    tables = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.full(_BLOCK_BYTES, base, np.uint64)
        powers[0] = 1
        tables.append(np.multiply.accumulate(powers))
    return letters, tables[0], tables[1]
