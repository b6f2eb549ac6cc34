"""Which rows of a split are measured on: all of it in one fixed order, every beginning of which is a fair sample.

Held-out text lies in the store source by source and shard by shard, so its first rows are of one source. Here the rows
of each source are permuted by a bijection, and row j of a source with n rows stands at (j + 1/2) / n of the order; so
the first rows, however many, have every source in proportion and come from anywhere in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from electra_scale.data.noise import generator_key, hashes, permuted
from electra_scale.data.order import Places


class Spread:
    """The order of rows for measuring; it has the methods of :class:`~electra_scale.data.order.Order`.

    ``rows`` (shards,) rows of each shard in manifest order and ``sources`` the label of each; ``fingerprint`` of the
    manifest. A pure function of these and ``seed``. Every epoch is the same.
    """

    streams = 1
    """It is read a few rows at a time, from anywhere."""

    def __init__(self, rows: NDArray[np.int64], sources: Sequence[str], fingerprint: str, seed: int) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.samples = int(self.rows.sum())
        self.first_sample = np.cumsum(self.rows) - self.rows
        labels = np.array(sources)
        self.labels = sorted({str(label) for label in labels[self.rows > 0]})
        self._shards = [np.flatnonzero((labels == label) & (self.rows > 0)) for label in self.labels]
        self._sizes = np.array([self.rows[shards].sum() for shards in self._shards], dtype=np.int64)
        self._keys = [generator_key(fingerprint, label, seed, "spread") for label in self.labels]
        self._begin = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def places(self, positions: NDArray[np.int64]) -> Places:
        """The rows at ``positions`` (n,), counted from 0 over all epochs."""
        epoch, inside = np.divmod(np.asarray(positions, dtype=np.int64), self.samples)
        needed = int(inside.max()) + 1 if len(inside) else 0
        if needed > len(self._begin[0]):
            self._begin = self._first(min(self.samples, 2 * needed))
        source, number = (column[inside] for column in self._begin)
        shard, row = np.empty_like(inside), np.empty_like(inside)
        for index, shards in enumerate(self._shards):
            here = np.flatnonzero(source == index)
            size = np.full(len(here), self._sizes[index])
            chosen = permuted(number[here], size, hashes(self._keys[index], np.zeros_like(here)))
            ends = np.cumsum(self.rows[shards])
            place = np.searchsorted(ends, chosen, side="right")
            shard[here] = shards[place]
            row[here] = chosen - (ends[place] - self.rows[shards[place]])
        return Places(epoch, shard, row, self.first_sample[shard] + row)

    def _first(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first ``count`` of the order: the source of each, as an index, and its number in the source."""
        # What lies before (j + 1/2) / n is within half a row a source of its share.
        most = np.minimum(self._sizes, self._sizes * (count + len(self._sizes)) // self.samples + 1)
        source = np.repeat(np.arange(len(most)), most)
        number = np.concatenate([np.arange(one) for one in most])
        order = np.lexsort((source, (number + 0.5) / self._sizes[source]))[:count]
        return source[order], number[order]
