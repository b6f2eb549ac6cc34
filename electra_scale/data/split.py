"""The rows of one split of a store."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from electra_scale.data.rows import PackedShard, Packing, SpecialTokens, row_count
from electra_scale.data.store import MappedShard, Store

_MOST_OPEN = 256


_MOST_DOCUMENTS = 6_000_000


# The kernel maps up to 64 KiB around a page that is touched, so this many rows may hold 96 MiB.
_MOST_MAPPED = 96 << 20


_ROWS_UNTIL_RELEASE = 1536


class Split:
    """The rows of the shards of one split, numbered shard by shard in manifest order.

    Shards are opened when first asked for. The ones used longest ago are closed again beyond 256 shards or 6 million
    documents, which bounds memory for their document bounds and the disk space of evicted files that are still mapped.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        sequence_length: int,
        special: SpecialTokens,
        packing: Packing = "greedy",
        packing_window: int = 1024,
        attend_across: bool = False,
    ) -> None:
        self.store = store
        self.entries = [entry for entry in store.manifest.split(name) if entry.tokens > 0]
        self.sequence_length = sequence_length
        self.special = special
        self.packing = packing
        self.packing_window = packing_window
        self.attend_across = attend_across
        self.sources = [entry.source for entry in self.entries]
        self.rows = np.array([row_count(e.rows, e.tokens, sequence_length) for e in self.entries], dtype=np.int64)
        if not self.entries:
            raise UserError(f"store {store.url} has no documents in its {name} split; build it with more text")
        self._open: OrderedDict[int, tuple[MappedShard, PackedShard]] = OrderedDict()
        self._documents = 0
        self._rows_read = 0
        self._lock = threading.Lock()

    def fetch(self, shard: int) -> None:
        """See that shard number ``shard`` is on the node's disk."""
        self.store.fetch(self.entries[shard])

    def open(self, shard: int) -> PackedShard:
        """The rows of shard number ``shard``; any thread may ask."""
        with self._lock:
            found = self._open.get(shard)
            if found is not None:
                self._open.move_to_end(shard)
                found[0].keep_in_cache()
                return found[1]
        # Opened outside the lock, since it may have to be fetched; two threads may do it at once without harm.
        mapped = self.store.open(self.entries[shard])
        packed = PackedShard(
            mapped.shard.ids,
            mapped.shard.offsets,
            self.sequence_length,
            self.special,
            self.packing,
            self.packing_window,
            self.attend_across,
        )
        mapped.release_memory()
        with self._lock:
            if shard not in self._open:
                self._open[shard] = (mapped, packed)
                self._documents += self.entries[shard].rows
            self._close_oldest()
        return packed

    def read(self, shard: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids (S,) and segments (S,) of a row."""
        ids, segment = self.open(shard).read(np.array([row], dtype=np.int64))
        return ids[0], segment[0]

    def rows_were_read(self, count: int) -> None:
        """Count rows, and let go of the pages of the maps before they are more than about 96 MiB."""
        with self._lock:
            self._rows_read += count
            if self._rows_read < _ROWS_UNTIL_RELEASE:
                return
            self._rows_read = 0
            mapped = [pair[0] for pair in self._open.values()]
        # Touching a page again costs more than reading it: maps that are small all together stay.
        if sum(len(one.map) for one in mapped) <= _MOST_MAPPED:
            return
        for one in mapped:
            one.release_memory()

    def _close_oldest(self) -> None:
        while len(self._open) > 1 and (len(self._open) > _MOST_OPEN or self._documents > _MOST_DOCUMENTS):
            shard, _ = self._open.popitem(last=False)
            self._documents -= self.entries[shard].rows
