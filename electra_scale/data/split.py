"""The rows of one split of a store."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from data_pipeline.errors import UserError
from electra_scale.data.rows import PackedShard, SpecialTokens, row_count
from electra_scale.data.store import MappedShard, Store
from electra_scale.recipe.data import DataConfig

_MOST_OPEN_SHARDS = 256
_MOST_OPEN_DOCUMENTS = 6_000_000

_MOST_RESIDENT_BYTES = 96 << 20
_ROWS_UNTIL_RELEASE = 1536
"""The kernel maps up to 64 KiB around a page that is touched, so this many rows make at most 96 MiB resident."""


class Split:
    """The rows of the shards of one split (``train`` or ``heldout``), numbered shard by shard in manifest order.

    Shards are opened when they are first needed. Beyond 256 shards or 6 million documents those used longest ago are
    closed again. This bounds the memory for the documents' bounds, and the disk space of files that the cache has
    evicted while they were mapped here.

    Raises UserError if the split holds no documents.
    """

    def __init__(self, store: Store, name: str, special: SpecialTokens, config: DataConfig) -> None:
        self.store = store
        self.special = special
        self.config = config
        self.entries = [entry for entry in store.manifest.split(name) if entry.tokens > 0]
        self.sources = [entry.source for entry in self.entries]
        self.rows = np.array([row_count(e.rows, e.tokens, config.sequence_length) for e in self.entries], np.int64)
        if not self.entries:
            raise UserError(f"store {store.url} has no documents in its {name} split; build it with more text")
        self._open: OrderedDict[int, tuple[MappedShard, PackedShard]] = OrderedDict()
        self._open_documents = 0
        self._rows_since_release = 0
        self._lock = threading.Lock()

    def fetch(self, shard: int) -> None:
        """Bring shard number ``shard`` onto the node's disk unless it is there; raises what ``Store.fetch`` does."""
        self.store.fetch(self.entries[shard])

    def open(self, shard: int) -> PackedShard:
        """The rows of shard number ``shard``; any thread may call it. Raises what :meth:`Store.open` does."""
        with self._lock:
            found = self._open.get(shard)
            if found is not None:
                self._open.move_to_end(shard)
                found[0].keep_in_cache()
                return found[1]
        # Opened outside the lock, since it may have to be fetched; two threads may do it at once without harm.
        mapped = self.store.open(self.entries[shard])
        packed = PackedShard(mapped.shard.ids, mapped.shard.offsets, self.special, self.config)
        mapped.release_memory()
        with self._lock:
            if shard not in self._open:
                self._open[shard] = (mapped, packed)
                self._open_documents += self.entries[shard].rows
            self._close_oldest()
        return packed

    def rows_were_read(self, count: int) -> None:
        """Count rows, and release the pages of the memory maps before more than about 96 MiB of them are resident."""
        with self._lock:
            self._rows_since_release += count
            if self._rows_since_release < _ROWS_UNTIL_RELEASE:
                return
            self._rows_since_release = 0
            mapped = [pair[0] for pair in self._open.values()]
        # Mapping a page again costs more than reading it, so maps that are small in total are not released.
        if sum(len(one.map) for one in mapped) <= _MOST_RESIDENT_BYTES:
            return
        for one in mapped:
            one.release_memory()

    def _close_oldest(self) -> None:
        while len(self._open) > 1 and (
            len(self._open) > _MOST_OPEN_SHARDS or self._open_documents > _MOST_OPEN_DOCUMENTS
        ):
            shard, _ = self._open.popitem(last=False)
            self._open_documents -= self.entries[shard].rows
