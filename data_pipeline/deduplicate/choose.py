"""The serial step between reading and tokenizing: which documents stay, and where they go, in bounded memory."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.clean.identity import hash_halves, held_out_mask

# Decision bits, one byte per document that survived cleaning.
KEPT = 1
HELD_OUT = 2
SAMPLED = 4
NEAR = 8

# Bytes that sorting one row of 64-bit keys takes: the keys, the position, the order, and sorted copies.
_ROW_BYTES = 64
_MOST_PASSES = 1 << 12
_BINS = 1 << 16


@dataclasses.dataclass(frozen=True)
class TaskDocuments:
    """What the serial step needs of one task's documents.

    ``hashes`` (documents, 16) content hashes, ``sizes`` (documents,) bytes of cleaned text, ``bands``
    (documents, K) uint64 near-duplicate keys with K = 0 when near duplicates stay.
    """

    hashes: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int64]
    bands: npt.NDArray[np.uint64]


Tasks = Callable[[], Iterator[TaskDocuments]]


def first_occurrences(*columns: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """True where a row of the columns occurs for the first time, (n,)."""
    # lexsort is stable, so equal rows keep their canonical order and the first of a run is the earliest.
    order = np.lexsort(columns)
    new_run = np.zeros(len(order), np.bool_)
    new_run[:1] = True
    for column in columns:
        ordered = column[order]
        new_run[1:] |= ordered[1:] != ordered[:-1]
    first = np.zeros(len(order), np.bool_)
    first[order[new_run]] = True
    return first


def choose_documents(
    tasks: Tasks,
    counts: Sequence[int],
    decisions: npt.NDArray[np.uint8],
    *,
    deduplicate: bool,
    near_keys: int,
    held_out: float,
    sample_bytes: int,
    seed: int,
    memory: int,
) -> int:
    """Fill in one decision byte per document over all tasks in canonical order; the number of passes made.

    The result does not depend on ``memory``. NEAR marks documents that are dropped as near duplicates; of
    the others, KEPT ones stay.

    Args:
        tasks: called once per pass, yields the tasks' documents in canonical order.
        counts: documents per task.
        decisions: (documents,) uint8, zeros, filled in place; may be a memory map.
        near_keys: K of the near-duplicate keys; 0 to keep near duplicates.
        held_out: share of documents for the split heldout.
        sample_bytes: about how many bytes of train text to mark for training a vocabulary; 0 for none.
        seed: decides which documents are sampled.
        memory: bytes to hold at once, beside one task's documents.
    """
    starts = np.cumsum([0, *counts])
    passes = _exact(tasks, starts, decisions, deduplicate, held_out, memory)
    if near_keys:
        passes += _near(tasks, starts, decisions, near_keys, memory)
    if sample_bytes:
        passes += _sample(tasks, starts, decisions, sample_bytes, seed, memory)
    return passes


def _parts(rows: int, memory: int) -> int:
    """Into how many parts (a power of two) ``rows`` keys go, so that a part can be sorted in ``memory``."""
    parts = 1
    while parts < _MOST_PASSES and rows * _ROW_BYTES > memory * parts:
        parts *= 2
    return parts


def _in_part(values: npt.NDArray[np.uint64], part: int, parts: int) -> npt.NDArray[np.bool_]:
    """Which values belong to a part: their top bits are its number."""
    if parts == 1:
        return np.ones(len(values), np.bool_)
    return (values >> np.uint64(64 - parts.bit_length() + 1)) == np.uint64(part)


class _Repeats:
    """Finds rows that came before. Rows that repeat are forgotten, so many copies of one take no memory."""

    def __init__(self, memory: int, repeated: Callable[[npt.NDArray[np.int64]], None]) -> None:
        self._limit = max(1024, 2 * memory // _ROW_BYTES)
        self._repeated = repeated
        self._held: list[tuple[npt.NDArray[Any], ...]] = []
        self._rows = 0

    def add(self, positions: npt.NDArray[np.int64], *columns: npt.NDArray[np.uint64]) -> None:
        self._held.append((positions, *columns))
        self._rows += len(positions)
        if self._rows > self._limit:
            self.settle()

    def settle(self) -> None:
        """Report the positions of repeated rows among those added so far."""
        if not self._held:
            return
        positions, *columns = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        first = first_occurrences(*columns)
        self._repeated(positions[~first])
        self._held = [(positions[first], *(column[first] for column in columns))]
        self._rows = int(first.sum())
        # Rows that are all different would be sorted again and again at a fixed limit.
        self._limit = max(self._limit, 2 * self._rows)


def _exact(
    tasks: Tasks,
    starts: npt.NDArray[np.int64],
    decisions: npt.NDArray[np.uint8],
    deduplicate: bool,
    held_out: float,
    memory: int,
) -> int:
    def drop(positions: npt.NDArray[np.int64]) -> None:
        decisions[positions] = 0

    parts = _parts(int(starts[-1]), memory) if deduplicate else 1
    for part in range(parts):
        repeats = _Repeats(memory, drop)
        for start, documents in zip(starts[:-1], tasks(), strict=True):
            ids, keys = hash_halves(documents.hashes)
            here = np.flatnonzero(_in_part(ids, part, parts))
            aside = held_out_mask(keys[here], held_out)
            decisions[start + here] = (KEPT + aside * HELD_OUT).astype(np.uint8)
            if deduplicate:
                repeats.add(start + here, keys[here], ids[here])
        repeats.settle()
    return parts


def _near(
    tasks: Tasks, starts: npt.NDArray[np.int64], decisions: npt.NDArray[np.uint8], near_keys: int, memory: int
) -> int:
    def mark(positions: npt.NDArray[np.int64]) -> None:
        # A near duplicate still counts as the first of its other keys, so it stays KEPT until the end.
        decisions[positions] |= NEAR

    parts = _parts(int(starts[-1]) * near_keys, memory)
    for part in range(parts):
        repeats = [_Repeats(memory // near_keys, mark) for _ in range(near_keys)]
        for start, documents in zip(starts[:-1], tasks(), strict=True):
            kept = np.flatnonzero(decisions[start : start + len(documents.sizes)] & KEPT)
            if not len(kept):
                # A task without documents has no keys at all.
                continue
            for column, seen in enumerate(repeats):
                values = documents.bands[kept, column]
                here = _in_part(values, part, parts)
                seen.add(start + kept[here], values[here])
        for seen in repeats:
            seen.settle()
    for start, end in itertools.pairwise(starts):
        bits = decisions[start:end]
        bits[(bits & NEAR) != 0] = NEAR
    return parts


def _sample(
    tasks: Tasks,
    starts: npt.NDArray[np.int64],
    decisions: npt.NDArray[np.uint8],
    sample_bytes: int,
    seed: int,
    memory: int,
) -> int:
    """Mark train documents in the order of a keyed hash until they have ``sample_bytes``.

    A histogram of bytes over the hash's top bits shows up to which bin all are taken; only the documents of
    that bin are sorted. The sample is even over the corpus and the same on every machine.
    """

    def candidates() -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.uint64], npt.NDArray[np.int64]]]:
        for start, documents in zip(starts[:-1], tasks(), strict=True):
            here = np.flatnonzero((decisions[start : start + len(documents.sizes)] & (KEPT | HELD_OUT)) == KEPT)
            ids, _ = hash_halves(documents.hashes[here])
            yield start + here, _scramble(ids, seed), documents.sizes[here]

    histogram = np.zeros(_BINS, np.int64)
    for _, priorities, sizes in candidates():
        np.add.at(histogram, _bin(priorities), sizes)
    through = np.cumsum(histogram)
    last = int(np.searchsorted(through, sample_bytes))
    left = sample_bytes - (int(through[last - 1]) if last else 0)
    boundary = _Boundary(left, max(1024, memory // _ROW_BYTES))
    for positions, priorities, sizes in candidates():
        bins = _bin(priorities)
        decisions[positions[bins < last]] |= SAMPLED
        here = bins == last
        boundary.add(positions[here], priorities[here], sizes[here])
    decisions[boundary.settle()] |= SAMPLED
    return 2


class _Boundary:
    """Takes documents in the order of their priorities while fewer than ``budget`` bytes come before."""

    def __init__(self, budget: int, limit: int) -> None:
        self._budget = budget
        self._limit = limit
        self._held: list[tuple[npt.NDArray[Any], ...]] = []
        self._rows = 0

    def add(self, positions: npt.NDArray[Any], priorities: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> None:
        self._held.append((positions, priorities, sizes))
        self._rows += len(positions)
        if self._rows > self._limit:
            self.settle()

    def settle(self) -> npt.NDArray[Any]:
        """Positions taken so far; those that more documents can only push out are forgotten."""
        if not self._held:
            return np.zeros(0, np.int64)
        positions, priorities, sizes = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        order = np.argsort(priorities, kind="stable")
        before = np.cumsum(sizes[order]) - sizes[order]
        chosen = np.sort(order[before < self._budget])
        self._held = [(positions[chosen], priorities[chosen], sizes[chosen])]
        self._rows = len(chosen)
        self._limit = max(self._limit, 2 * self._rows)
        return positions[chosen]


def _bin(priorities: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    return (priorities >> np.uint64(48)).astype(np.int64)


def _scramble(values: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    # The output function of SplitMix64 (Steele, Lea and Flood 2014).
    mixed = values ^ np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
