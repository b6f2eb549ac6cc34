"""The serial step between reading and tokenizing: which documents stay, and where they go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Verdict bits, one byte per document that survived cleaning.
KEPT = 1
HELD_OUT = 2
SAMPLED = 4


def hash_halves(hashes: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Split (n, 16) hash bytes into document ids (n,) and split keys (n,), both little-endian uint64."""
    words = np.ascontiguousarray(hashes).view("<u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def first_occurrences(ids: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """True where a pair occurs for the first time, (n,)."""
    # lexsort is stable, so equal hashes keep their canonical order and the first of a run is the earliest.
    order = np.lexsort((keys, ids))
    new_run = np.ones(len(order), np.bool_)
    new_run[1:] = (ids[order][1:] != ids[order][:-1]) | (keys[order][1:] != keys[order][:-1])
    first = np.zeros(len(order), np.bool_)
    first[order[new_run]] = True
    return first


def judge(
    hashes: Sequence[npt.NDArray[np.uint8]],
    sizes: Sequence[npt.NDArray[np.int64]],
    *,
    deduplicate: bool,
    held_out: float,
    sample_bytes: int,
    seed: int,
) -> npt.NDArray[np.uint8]:
    """One verdict byte per document over all tasks in canonical order, (n,).

    Args:
        hashes: per task, (documents, 16) content hashes.
        sizes: per task, (documents,) bytes of cleaned text.
        sample_bytes: about how many bytes of train text to mark for training a vocabulary; 0 for none.
    """
    ids, keys = hash_halves(np.concatenate([np.zeros((0, 16), np.uint8), *hashes]))
    lengths = np.concatenate([np.zeros(0, np.int64), *sizes])
    kept = first_occurrences(ids, keys) if deduplicate else np.ones(len(ids), np.bool_)
    aside = kept & (keys < np.uint64(int(held_out * 2.0**64)))
    sampled = np.zeros(len(ids), np.bool_)
    if sample_bytes:
        candidates = np.flatnonzero(kept & ~aside)
        # A keyed hash as priority: the sample is even over the corpus and the same on every machine.
        order = candidates[np.argsort(_scramble(ids[candidates], seed), kind="stable")]
        before = np.cumsum(lengths[order]) - lengths[order]
        sampled[order[before < sample_bytes]] = True
    return (kept * KEPT + aside * HELD_OUT + sampled * SAMPLED).astype(np.uint8)


def _scramble(values: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    # The output function of SplitMix64 (Steele, Lea and Flood 2014).
    mixed = values ^ np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
