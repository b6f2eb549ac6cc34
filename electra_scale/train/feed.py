"""The micro-batches of a phase's steps, and replacements that are drawn for them a step ahead."""

from __future__ import annotations

from collections.abc import Callable

from data_pipeline.errors import OneRankError
from electra_scale.corruption.ahead import Ahead
from electra_scale.data.batch import Batch
from electra_scale.data.prefetch import Prefetcher
from electra_scale.monitor.stopwatch import Stopwatch


class MicroBatches:
    """What this rank works on, step after step.

    Args:
        feed: delivers the micro-batches of each step.
        stopwatch: splits this rank's time, of which waiting for them is a part.
        give_way: where it returns True, waiting for a batch ends. What is drawn ahead is waited for in any case.
    """

    def __init__(
        self, feed: Prefetcher[list[Batch]], stopwatch: Stopwatch, give_way: Callable[[], bool] = lambda: False
    ) -> None:
        self._feed = feed
        self._stopwatch = stopwatch
        self._give_way = give_way
        self._next: tuple[int, list[Batch]] | None = None
        self._ahead: list[Ahead] = []
        self._ahead_of = -1

    def take(self, step: int) -> tuple[list[Batch], list[Ahead | None], OneRankError | None]:
        """The micro-batches of a step, what was drawn ahead for each, and the error if there are none."""
        batches, failure = self._batches(step, self._give_way)
        ahead: list[Ahead | None] = [*self.drawn_for(step)] or [None] * len(batches)
        return batches, ahead, failure

    def drawn_for(self, step: int) -> list[Ahead]:
        """What was drawn ahead for a step, by micro-batch; empty if nothing was."""
        return self._ahead if self._ahead_of == step else []

    def draw_ahead(self, step: int, draw: Callable[[int, Batch], Ahead]) -> None:
        """Draw the replacements of the next step, ``step``, by number and micro-batch."""
        batches, failure = self._batches(step)
        if failure is not None:
            # The step itself meets the same failure, and reports it to the other ranks.
            return
        self._next = (step, batches)
        self._ahead, self._ahead_of = [draw(number, batch) for number, batch in enumerate(batches)], step

    def restore(self, step: int, load: Callable[[list[Batch]], list[Ahead]]) -> None:
        """Resume with the draws for ``step`` that a checkpoint holds; ``load`` gets no batches where there are none.

        Whatever this rank's data does, ``load`` is called, since other ranks may call it too.
        """
        batches, failure = self._batches(step)
        self._ahead, self._ahead_of = load(batches), step
        if failure is None:
            self._next = (step, batches)

    def _batches(
        self, step: int, give_way: Callable[[], bool] = lambda: False
    ) -> tuple[list[Batch], OneRankError | None]:
        if self._next is not None and self._next[0] == step:
            (_, batches), self._next = self._next, None
            return batches, None
        try:
            with self._stopwatch.part("data_wait"):
                return self._feed.take(step, give_way), None
        except OneRankError as error:
            return [], error
