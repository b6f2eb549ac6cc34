"""Reading ahead: threads fetch the shards that coming batches need, and assemble the batches.

The content of a batch never depends on threads; they only decide when it is assembled. While a store does not answer,
only the batches that need a shard from it have to wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.place import Unavailable
from electra_scale.data.retry_budget import RetryBudget
from electra_scale.data.shard_schedule import ShardSchedule

T = TypeVar("T")

_GROUPS_AHEAD = 4
"""Groups of steps that are assembled before they are taken."""


@dataclass
class _Assemble:
    """Work for a thread: assemble the batches of these steps."""

    steps: range


@dataclass
class _Fetch:
    """Work for a thread: fetch this shard."""

    shard: int


class Prefetcher(Generic[T]):
    """The batches of ``steps``, in order.

    ``assemble(steps)`` gives the batch of each step of a range. ``threads`` do it ahead, a group of up to ``together``
    steps at once, as far as their shards are on disk; with 0 threads a batch is assembled when it is taken.
    ``schedule`` is None where no shard has to be fetched.
    """

    def __init__(
        self,
        steps: range,
        assemble: Callable[[range], list[T]],
        threads: int,
        together: int,
        budget: RetryBudget,
        schedule: ShardSchedule | None = None,
    ) -> None:
        self._last = steps.stop
        self._assemble = assemble
        self._together = together
        self._budget = budget
        self._schedule = schedule
        # The lock of all that follows, and of the schedule; notified when any of it changes.
        self._changed = threading.Condition()
        self._closed = False
        self._error: Exception | None = None
        # The step that was asked for last, the first step that no thread assembles, and the finished batches.
        self._taken = steps.start
        self._next = steps.start
        self._finished: dict[int, T] = {}
        self._threads = [threading.Thread(target=self._work, name=f"prefetch-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def take(self, step: int, stop_waiting: Callable[[], bool] = lambda: False) -> T:
        """The batch of ``step``, each step in turn. Waits only while a shard that it needs is not on disk.

        Raises:
            OneRankError: the store failed to answer for too long, or holds what can't be read, or ``stop_waiting``
                returned True, which is called about once a second.
        """
        if not self._threads:
            return self._assemble(range(step, step + 1))[0]
        with self._changed:
            self._taken = step
            if self._schedule is not None:
                self._schedule.forget_before(step)
            self._changed.notify_all()
            while step not in self._finished:
                if self._error is not None:
                    raise self._error
                if step == self._next and self._ready(step):
                    # The threads may all be waiting for a store that does not answer, so it is assembled here.
                    self._next += 1
                    break
                self._budget.check()
                if stop_waiting():
                    raise OneRankError(f"the data of step {step + 1} did not arrive in time")
                self._changed.wait(1.0)
            else:
                return self._finished.pop(step)
        return self._assemble(range(step, step + 1))[0]

    def close(self) -> None:
        """End the threads; one that waits for the network ends with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=2.0)

    def _work(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                if isinstance(work, _Fetch):
                    self._fetch(work.shard)
                    continue
                batches = self._assemble(work.steps)
                with self._changed:
                    self._finished.update(zip(work.steps, batches, strict=True))
                    self._changed.notify_all()
        except Exception as error:  # of any kind: take() raises it in the thread that trains
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _next_work(self) -> _Assemble | _Fetch | None:
        """Wait for work, and mark it as taken; None when there is nothing more to do."""
        with self._changed:
            while not self._closed and self._error is None and self._next < self._last:
                first = self._next
                if first <= self._taken + _GROUPS_AHEAD * self._together and self._ready(first):
                    self._next += 1
                    while self._next < min(first + self._together, self._last) and self._ready(self._next):
                        self._next += 1
                    return _Assemble(range(first, self._next))
                if self._schedule is None:
                    self._changed.wait()
                    continue
                now = time.monotonic()
                shard = self._schedule.start_next(now)
                if shard is not None:
                    return _Fetch(shard)
                if self._schedule.scan_ahead(self._taken):
                    self._changed.notify_all()
                else:
                    self._changed.wait(self._schedule.seconds_until_due(now))
        return None

    def _ready(self, step: int) -> bool:
        """Whether the shards of ``step`` are on disk."""
        if self._schedule is None:
            return True
        if self._schedule.scan_to(step):
            self._changed.notify_all()
        return self._schedule.ready(step)

    def _fetch(self, shard: int) -> None:
        assert self._schedule is not None
        try:
            self._schedule.fetch(shard)
        except Unavailable as error:
            with self._changed:
                failures = self._schedule.failures(shard)
            pause = self._budget.failed(error, failures + 1)
            with self._changed:
                self._schedule.retry_at(shard, time.monotonic() + pause)
                self._changed.notify_all()
            return
        except UserError as error:
            raise OneRankError(str(error)) from error
        with self._changed:
            failures = self._schedule.failures(shard)
            self._schedule.arrived(shard)
            self._changed.notify_all()
        # A shard that never failed may have been in the cache, which says nothing about the store.
        if failures:
            self._budget.answered()
