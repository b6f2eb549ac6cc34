"""The shards that coming steps need: which are on the node's disk, and which is to be fetched next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SCANNED_TOGETHER = 32
"""Steps that are looked up at once: that costs little more than looking up one."""

_LONGEST_SCAN = 20_000
"""Steps beyond the current one that are looked at to find shards to fetch."""


@dataclass
class _Need:
    """The first and the last of the scanned steps that need a shard."""

    first: int
    last: int


@dataclass
class _Fetch:
    """A fetch that has not succeeded yet: when the next attempt is due (monotonic seconds), and the failed ones.

    While a thread is at it, ``due`` is infinite.
    """

    due: float = 0.0
    failures: int = 0


class ShardSchedule:
    """The shards of ``steps``, scanned step by step in their order.

    ``needs`` gives the shards (steps, n) of the rows of some steps. ``fetch`` brings a shard onto the disk. ``ahead``
    shards are scheduled before they are needed. The schedule has no lock: the prefetcher calls it under its own.
    """

    def __init__(
        self, steps: range, needs: Callable[[range], NDArray[np.int64]], fetch: Callable[[int], None], ahead: int
    ) -> None:
        self.fetch = fetch
        self._last = steps.stop
        self._ahead = ahead
        self._needs = needs
        # Every shard of a step before this one that is not on disk is among the fetches.
        self._scanned = steps.start
        self._forgotten = steps.start
        self._shards_of: dict[int, list[int]] = {}
        self._needed: dict[int, _Need] = {}
        self._fetches: dict[int, _Fetch] = {}
        self._on_disk: set[int] = set()

    def ready(self, step: int) -> bool:
        """Whether all shards of a scanned step are on disk."""
        return all(shard in self._on_disk for shard in self._shards_of[step])

    def scan_to(self, step: int) -> bool:
        """Scan the steps up to ``step`` unless they have been scanned; returns whether any were."""
        before = self._scanned
        while self._scanned <= step:
            self._scan()
        return self._scanned > before

    def scan_ahead(self, current: int) -> bool:
        """Scan further if fewer than ``ahead`` shards are first needed after step ``current``; whether it did."""
        if self._scanned >= min(self._last, current + _LONGEST_SCAN):
            return False
        if sum(need.first > current for need in self._needed.values()) >= self._ahead:
            return False
        self._scan()
        return True

    def start_next(self, now: float) -> int | None:
        """The shard whose fetch is due and which is needed first, marked as being fetched; None if none is due."""
        due = [shard for shard, fetch in self._fetches.items() if fetch.due <= now]
        if not due:
            return None
        shard = min(due, key=lambda shard: self._needed[shard].first if shard in self._needed else 0)
        self._fetches[shard].due = math.inf
        return shard

    def seconds_until_due(self, now: float) -> float | None:
        """Seconds until the next attempt is due; None if no fetch waits for another attempt."""
        times = [fetch.due - now for fetch in self._fetches.values() if fetch.due != math.inf]
        return max(min(times), 0.01) if times else None

    def failures(self, shard: int) -> int:
        """Failed attempts at a shard that is being fetched."""
        return self._fetches[shard].failures

    def retry_at(self, shard: int, due: float) -> None:
        """An attempt at ``shard`` has failed; the next is due then."""
        fetch = self._fetches[shard]
        fetch.due = due
        fetch.failures += 1

    def arrived(self, shard: int) -> None:
        """``shard`` is on disk."""
        del self._fetches[shard]
        if shard in self._needed:
            self._on_disk.add(shard)

    def forget_before(self, step: int) -> None:
        """Drop the shards that no scanned step from ``step`` on needs; a later step schedules them anew."""
        for shard in [shard for shard, need in self._needed.items() if need.last < step]:
            del self._needed[shard]
            self._on_disk.discard(shard)
        for old in range(self._forgotten, step):
            self._shards_of.pop(old, None)
        self._forgotten = step

    def _scan(self) -> None:
        first, last = self._scanned, min(self._scanned + _SCANNED_TOGETHER, self._last)
        needed = self._needs(range(first, last))
        width = needed.shape[1]
        self._shards_of.update((first + step, np.unique(row).tolist()) for step, row in enumerate(needed))
        shards, where = np.unique(needed, return_index=True)
        for shard, place in sorted(zip(shards.tolist(), where.tolist(), strict=True), key=lambda pair: pair[1]):
            need = self._needed.setdefault(shard, _Need(first + place // width, last - 1))
            need.last = last - 1
            if shard not in self._on_disk:
                self._fetches.setdefault(shard, _Fetch())
        self._scanned = last
