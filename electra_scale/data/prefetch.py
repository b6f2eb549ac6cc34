"""Reading ahead: the shards that coming batches need, and the batches themselves, in threads.

What a batch holds never depends on threads: they only decide when it is put together. A store that does not answer
stops nothing but the batches that need a shard from it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.place import Unavailable
from electra_scale.data.patience import Patience

T = TypeVar("T")

_RUNS_AHEAD = 4
_SCANNED_TOGETHER = 32
_LONGEST_SCAN = 20_000


class Shards(Protocol):
    """What is read ahead: shards that may have to be fetched."""

    def fetch(self, shard: int) -> None:
        """Fetch a shard unless it is there."""
        ...


class Prefetcher(Generic[T]):
    """Batches of steps ``first`` to ``last``, in order.

    ``needs(first, last)`` gives the shards (steps, n) of each step's rows; ``assemble(first, last)`` the batch of each
    step. ``shards`` is None where nothing has to be fetched. ``ahead`` shards are fetched before they are needed, and
    a thread assembles up to ``together`` steps at once, as far as their shards are there.
    """

    def __init__(
        self,
        first: int,
        last: int,
        needs: Callable[[int, int], NDArray[np.int64]],
        assemble: Callable[[int, int], list[T]],
        shards: Shards | None,
        threads: int,
        ahead: int,
        together: int,
        patience: Patience,
    ) -> None:
        self._last = last
        self._needs = needs
        self._assemble = assemble
        self._shards = shards
        self._ahead = ahead
        self._together = together
        self._patience = patience
        self._changed = threading.Condition()
        self._closed = False
        self._error: Exception | None = None
        self._taken = first
        self._forgotten = first
        self._next = first
        self._done: dict[int, T] = {}
        self._of_step: dict[int, list[int]] = {}
        # Steps before it have been looked at; every shard of theirs that is still to come is in the four below.
        self._scanned = first
        self._first_need: dict[int, int] = {}
        self._last_need: dict[int, int] = {}
        self._waiting: dict[int, tuple[float, int]] = {}
        self._there: set[int] = set()
        self._threads = [threading.Thread(target=self._work, name=f"prefetch-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def take(self, step: int, give_way: Callable[[], bool] = lambda: False) -> T:
        """The batch of the next step. Waits only where it needs a shard that is not there yet.

        Raises:
            OneRankError: the store gave up, or holds what can't be read, or ``give_way`` said that waiting is no use.
        """
        if not self._threads:
            return self._assemble(step, step + 1)[0]
        with self._changed:
            self._taken = step
            self._forget(step)
            self._changed.notify_all()
            while step not in self._done:
                if self._error is not None:
                    raise self._error
                if step == self._next and self._ready(step):
                    # Every thread may be busy with a store that does not answer.
                    self._next += 1
                    break
                self._patience.check()
                if give_way():
                    raise OneRankError(f"the data of step {step + 1} was not there in time")
                self._changed.wait(1.0)
            else:
                return self._done.pop(step)
        return self._assemble(step, step + 1)[0]

    def close(self) -> None:
        """End the threads; one that waits for the network ends with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=2.0)

    def _work(self) -> None:
        try:
            while True:
                job = self._choose()
                if job is None:
                    return
                kind, number, last = job
                if kind == "assemble":
                    batches = self._assemble(number, last)
                    with self._changed:
                        self._done.update(zip(range(number, last), batches, strict=True))
                        self._changed.notify_all()
                else:
                    self._fetch(number)
        except Exception as error:  # whatever it is, the thread that takes the batches has to hear of it
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _choose(self) -> tuple[str, int, int] | None:
        """What a thread does next: assemble steps [n, m), or fetch shard n; None when there is nothing more to do."""
        with self._changed:
            while not self._closed and self._error is None and self._next < self._last:
                step = self._next
                if step <= self._taken + _RUNS_AHEAD * self._together and self._ready(step):
                    self._next += 1
                    while self._next < min(step + self._together, self._last) and self._ready(self._next):
                        self._next += 1
                    return "assemble", step, self._next
                now = time.monotonic()
                due = [shard for shard, (when, _) in self._waiting.items() if when <= now]
                if due:
                    shard = min(due, key=lambda shard: self._first_need.get(shard, 0))
                    self._fetching(shard)
                    return "fetch", shard, shard + 1
                if not self._scan_more():
                    self._changed.wait(self._pause(now))
        return None

    def _pause(self, now: float) -> float | None:
        """Seconds until a try is due again; None where only a change of something else gives work."""
        times = [when - now for when, _ in self._waiting.values() if when != float("inf")]
        return max(min(times), 0.01) if times else None

    def _fetching(self, shard: int) -> None:
        # Stays in the list, so that nobody queues it again, but is never due while a thread is at it.
        self._waiting[shard] = (float("inf"), self._waiting[shard][1])

    def _fetch(self, shard: int) -> None:
        assert self._shards is not None
        try:
            self._shards.fetch(shard)
        except Unavailable as error:
            with self._changed:
                tries = self._waiting[shard][1] + 1
            seconds = self._patience.failed(error, tries)
            with self._changed:
                self._waiting[shard] = (time.monotonic() + seconds, tries)
                self._changed.notify_all()
            return
        except UserError as error:
            raise OneRankError(str(error)) from error
        with self._changed:
            failed = self._waiting.pop(shard)[1] > 0
            if shard in self._last_need:
                self._there.add(shard)
            self._changed.notify_all()
        # A shard that never failed may have been in the cache.
        if failed:
            self._patience.answered()

    def _ready(self, step: int) -> bool:
        if self._shards is None:
            return True
        while self._scanned <= step:
            self._scan()
        return all(shard in self._there for shard in self._of_step[step])

    def _scan_more(self) -> bool:
        """Look at further steps if fewer shards than wanted are on their way; whether that was so."""
        if self._shards is None or self._scanned >= min(self._last, self._taken + _LONGEST_SCAN):
            return False
        if sum(first > self._taken for first in self._first_need.values()) >= self._ahead:
            return False
        self._scan()
        return True

    def _scan(self) -> None:
        first, last = self._scanned, min(self._scanned + _SCANNED_TOGETHER, self._last)
        needed = self._needs(first, last)
        shards, where = np.unique(needed, return_index=True)
        width = needed.shape[1]
        # Looking up the order once for many steps costs little more than for one.
        self._of_step.update((first + step, np.unique(row).tolist()) for step, row in enumerate(needed))
        for shard, place in sorted(zip(shards.tolist(), where.tolist(), strict=True), key=lambda pair: pair[1]):
            self._last_need[shard] = last - 1
            if shard not in self._there and shard not in self._waiting:
                self._first_need[shard] = first + place // width
                self._waiting[shard] = (0.0, 0)
        self._scanned = last
        self._changed.notify_all()

    def _forget(self, step: int) -> None:
        """Drop shards that no scanned step from ``step`` on needs; if they come again, they are looked for again."""
        for shard in [shard for shard, last in self._last_need.items() if last < step]:
            del self._last_need[shard]
            self._first_need.pop(shard, None)
            self._there.discard(shard)
        for old in range(self._forgotten, step):
            self._of_step.pop(old, None)
        self._forgotten = step
