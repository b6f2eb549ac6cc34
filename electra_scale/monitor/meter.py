"""The speed of training between two logged steps, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from electra_scale.data.batch import Batch
from electra_scale.monitor.stopwatch import LEFT_OUT, PARTS, Stopwatch


class Meter:
    """Measures speed; evaluation and saving are not counted.

    ``tokens`` of a global step, padding included; ``work`` gives the FLOPs of training on a batch; ``peak`` FLOP/s of
    all devices together; ``stopwatch`` splits this process's time.
    """

    def __init__(self, tokens: int, work: Callable[[Batch], float], peak: float, stopwatch: Stopwatch) -> None:
        self._tokens = tokens
        self._work = work
        self._peak = peak
        self.stopwatch = stopwatch
        self.stopwatch.read()
        self._restart()

    def _restart(self) -> None:
        self._started = time.monotonic()
        self._left_out = 0.0
        self._flops = 0.0
        self.steps = 0

    @contextmanager
    def leave_out(self) -> Iterator[None]:
        """What is done inside is no training: its time does not count."""
        began = time.monotonic()
        try:
            with self.stopwatch.part(LEFT_OUT):
                yield
        finally:
            self._left_out += time.monotonic() - began

    def count(self, batches: Sequence[Batch]) -> None:
        """A step is made with these micro-batches of this rank; they are on the host."""
        self.steps += 1
        self._flops += sum(self._work(batch) for batch in batches)

    def own(self) -> dict[str, float]:
        """This process's figures of the interval, once: ``flops``, and the seconds of each of PARTS."""
        return {"flops": self._flops} | self.stopwatch.read()

    def read(self, summed: Mapping[str, float]) -> dict[str, float]:
        """Tokens per second, share of the peak and shares of the time; a new interval begins.

        ``summed``: the figures of :meth:`own`, added up over all ranks.
        """
        elapsed = time.monotonic() - self._started - self._left_out
        total = sum(summed[name] for name in PARTS)
        found = {
            "speed/tokens_per_second": self.steps * self._tokens / elapsed,
            "speed/mfu": summed["flops"] / elapsed / self._peak,
        }
        # A device that has passed none of an interval's steps yet has no parts to show.
        found |= {f"speed/{name}": summed[name] / total if total else 0.0 for name in PARTS}
        self._restart()
        return found
