"""Order: which row of which shard stands at a position of the run, as a pure function.

The shards of an epoch are permuted, and their rows, one shard after the other, form a line. The line is cut into
canonical streams of equal length, whose number does not depend on ranks; each fills a fixed slice of every global
batch, and its rows are permuted inside windows by a bijection that is computed, not stored. So a rank, whose part of
the batch is contiguous, reads a contiguous piece of the line, and with N nodes each fetches about 1/N of the bytes.
Every row appears exactly once in an epoch, and any position is computed without the ones before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from electra_scale.data.noise import generator_key, hashes, permuted
from electra_scale.recipe.data import DataConfig

_LINES = 4
"""Epochs whose permuted shards are kept in memory; a batch seldom touches more than two."""


@dataclass(frozen=True)
class Places:
    """Rows of a split at their places in the run, arrays (n,): ``sample`` numbers the rows of the split from 0."""

    epoch: NDArray[np.int64]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]
    sample: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shard)


def stream_count(global_batch: int, wanted: int) -> int:
    """Canonical streams: as many as wanted, or the next smaller number that divides the batch."""
    return max(count for count in range(1, min(wanted, global_batch) + 1) if global_batch % count == 0)


class Order:
    """The order of a run over a split, or over one source of it.

    ``rows`` (shards,) rows of each shard in manifest order; ``fingerprint`` of the manifest; ``seed`` of the run;
    ``global_batch`` positions of a step; ``config`` has the streams, and the window of rows of a stream that are
    shuffled together. Without ``shuffle`` every epoch is the split in manifest order. Raises ValueError for a split
    without rows.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        fingerprint: str,
        seed: int,
        global_batch: int,
        config: DataConfig,
        shuffle: bool = True,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.samples = int(self.rows.sum())
        if self.samples == 0 or min(global_batch, config.streams, config.shuffle_window) < 1:
            raise ValueError("an order needs rows, and a batch, streams and a shuffle window of at least one")
        self.first_sample = np.cumsum(self.rows) - self.rows
        self.fingerprint = fingerprint
        self.seed = seed
        self.global_batch = global_batch
        self.streams = stream_count(global_batch, config.streams)
        self.shuffle_window = config.shuffle_window
        self.shuffle = shuffle
        self._slots = global_batch // self.streams
        self._blocks = self.samples // global_batch
        self._stream_rows = self._blocks * self._slots
        self._in_order = np.arange(len(self.rows)), np.cumsum(self.rows)
        self._line = lru_cache(maxsize=_LINES)(self._permute_shards)

    def places(self, positions: NDArray[np.int64]) -> Places:
        """The rows at ``positions`` (n,) of the run, counted from 0 over all epochs."""
        positions = np.asarray(positions, dtype=np.int64)
        epoch, inside = np.divmod(positions, self.samples)
        line = self._line_rows(positions, epoch, inside) if self.shuffle else inside
        shard = np.empty_like(line)
        row = np.empty_like(line)
        for number in np.unique(epoch):
            here = epoch == number
            shards, ends = self._line(int(number)) if self.shuffle else self._in_order
            index = np.searchsorted(ends, line[here], side="right")
            shard[here] = shards[index]
            row[here] = line[here] - (ends[index] - self.rows[shards[index]])
        return Places(epoch, shard, row, self.first_sample[shard] + row)

    def _line_rows(
        self, positions: NDArray[np.int64], epoch: NDArray[np.int64], inside: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The row (n,) of the epoch's line at each position."""
        # An epoch may start inside a batch. The slot is counted in the batch, so that a rank keeps to its streams.
        stream, slot = np.divmod(positions % self.global_batch, self._slots)
        step = (inside // self.global_batch) * self._slots + slot
        window = step // self.shuffle_window
        start = window * self.shuffle_window
        size = np.minimum(self.shuffle_window, self._stream_rows - start)
        base = stream * self._stream_rows + start
        # The rows that do not fill a batch of the epoch come last, as a window of their own.
        full = self._blocks * self.global_batch
        tail = inside >= full
        stream = np.where(tail, self.streams, stream)
        window = np.where(tail, 0, window)
        offset = np.where(tail, inside - full, step - start)
        size = np.where(tail, self.samples - full, size)
        base = np.where(tail, full, base)
        key = hashes(generator_key(self.fingerprint, self.seed, "windows"), epoch, stream, window)
        return base + permuted(offset, size, key)

    def _permute_shards(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards of an epoch in the order of the line, and the line's row at which each ends."""
        key = generator_key(self.fingerprint, self.seed, epoch, "shards")
        shards = np.argsort(hashes(key, np.arange(len(self.rows))), kind="stable")
        return shards, np.cumsum(self.rows[shards])
