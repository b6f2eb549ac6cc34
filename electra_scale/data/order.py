"""Order: which row of which shard stands at a position of the run, as a pure function.

The shards of an epoch are permuted and dealt out to canonical streams, whose number does not depend on ranks. A stream
reads its shards one after the other and permutes rows inside windows; positions go round the streams in turn. Every
row of the store appears exactly once in an epoch, and any position is found without the ones before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from electra_scale.data.noise import generator_key


@dataclass(frozen=True)
class Place:
    """A row of the store at its place in the run; ``sample`` numbers the rows of the store from 0."""

    epoch: int
    shard: int
    row: int
    sample: int


class Order:
    """``rows`` (shards,) rows of each shard in manifest order; ``fingerprint`` of the manifest; ``seed`` of the run."""

    def __init__(
        self, rows: NDArray[np.int64], fingerprint: str, seed: int, streams: int, window: int, shuffle: bool = True
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.samples = int(self.rows.sum())
        self.first_sample = np.concatenate([[0], np.cumsum(self.rows)[:-1]]).astype(np.int64)
        self.fingerprint = fingerprint
        self.seed = seed
        self.streams = max(1, min(streams, len(self.rows)))
        self.window = window
        self.shuffle = shuffle
        self._epoch = lru_cache(maxsize=4)(self._lay_out)
        self._permutation = lru_cache(maxsize=4 * self.streams)(self._permute)

    def place(self, position: int) -> Place:
        """What stands at ``position`` of the run, counted over all epochs."""
        epoch, inside = divmod(position, self.samples)
        layout = self._epoch(epoch)
        stream, step = layout.locate(inside)
        if self.shuffle:
            window, offset = divmod(step, self.window)
            size = min(self.window, int(layout.lengths[stream]) - window * self.window)
            step = window * self.window + int(self._permutation(epoch, stream, window, size)[offset])
        ends = layout.ends[stream]
        index = int(np.searchsorted(ends, step, side="right"))
        shard = int(layout.shards[stream][index])
        row = step - (int(ends[index - 1]) if index else 0)
        return Place(epoch, shard, row, int(self.first_sample[shard]) + row)

    def _lay_out(self, epoch: int) -> _Epoch:
        shards = np.arange(len(self.rows))
        if self.shuffle:
            shards = self._generator(epoch, "shards").permutation(shards)
        dealt = [shards[stream :: self.streams] for stream in range(self.streams)]
        return _Epoch(dealt, [np.cumsum(self.rows[part]) for part in dealt])

    def _permute(self, epoch: int, stream: int, window: int, size: int) -> NDArray[np.int64]:
        return self._generator(epoch, f"window {stream} {window}").permutation(size)

    def _generator(self, epoch: int, purpose: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=generator_key(self.fingerprint, self.seed, epoch, purpose)))


class _Epoch:
    """The shards of each stream and how positions go round streams of unequal length."""

    def __init__(self, shards: list[NDArray[np.int64]], ends: list[NDArray[np.int64]]) -> None:
        self.shards = shards
        self.ends = ends
        self.lengths = np.array([int(end[-1]) if len(end) else 0 for end in ends], dtype=np.int64)
        # While a level lasts, the same streams are live; it ends when the shortest of them runs out.
        self.levels = np.unique(self.lengths)
        self.live = [np.flatnonzero(self.lengths >= level) for level in self.levels]
        below = np.concatenate([[0], self.levels[:-1]])
        self.level_start = below
        sizes = (self.levels - below) * np.array([len(streams) for streams in self.live])
        self.level_first = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def locate(self, position: int) -> tuple[int, int]:
        """Stream and step inside it."""
        level = int(np.searchsorted(self.level_first, position, side="right")) - 1
        turn, which = divmod(position - int(self.level_first[level]), len(self.live[level]))
        return int(self.live[level][which]), int(self.level_start[level]) + turn
