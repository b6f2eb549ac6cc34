"""The micro-batches of a phase's steps, and replacements that are drawn for them a step ahead."""

from __future__ import annotations

import time
from collections.abc import Callable

from electra_scale.data.loader import Batch
from electra_scale.data.prefetch import DataError, Prefetcher
from electra_scale.monitor.meter import Meter
from electra_scale.replacement import Ahead


class Steps:
    """What this rank works on, step after step. ``meter`` is told how long it had to wait."""

    def __init__(self, feed: Prefetcher[list[Batch]], meter: Meter) -> None:
        self._feed = feed
        self._meter = meter
        self._next: tuple[int, list[Batch]] | None = None
        self._ahead: list[Ahead] = []

    def take(self, step: int) -> tuple[list[Batch], list[Ahead | None], DataError | None]:
        """The micro-batches of a step, what was drawn ahead for each, and why there are none if there are none."""
        batches, failure = self._batches(step)
        ahead: list[Ahead | None] = [*self._ahead] or [None] * len(batches)
        self._ahead = []
        return batches, ahead, failure

    def draw_ahead(self, step: int, draw: Callable[[int, Batch], Ahead]) -> None:
        """Draw the replacements of the next step, ``step``, by number and micro-batch."""
        batches, failure = self._batches(step)
        if failure is not None:
            # The step itself meets the same failure, and tells the other ranks.
            return
        self._next = (step, batches)
        self._ahead = [draw(number, batch) for number, batch in enumerate(batches)]

    def _batches(self, step: int) -> tuple[list[Batch], DataError | None]:
        if self._next is not None and self._next[0] == step:
            (_, batches), self._next = self._next, None
            return batches, None
        waited = time.monotonic()
        try:
            return self._feed.take(step), None
        except DataError as error:
            return [], error
        finally:
            self._meter.waited += time.monotonic() - waited
