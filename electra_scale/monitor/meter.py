"""The speed of training between two logged steps."""

from __future__ import annotations

import time


class Meter:
    """Measures speed; evaluation and saving are not counted.

    ``tokens`` of a global step, ``flops`` of a training step per token, ``peak`` FLOP/s of all devices together.
    """

    def __init__(self, tokens: int, flops: float, peak: float) -> None:
        self._tokens = tokens
        self._flops = flops
        self._peak = peak
        self._last: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Start a new interval."""
        self._started = time.monotonic()
        self.steps = 0
        self.waited = 0.0

    def read(self) -> dict[str, float]:
        """Tokens per second, share of the peak, share of the time spent waiting for data, since the last call.

        An interval in which no step was counted repeats the values before it.
        """
        elapsed = time.monotonic() - self._started
        if self.steps and elapsed > 0:
            rate = self.steps * self._tokens / elapsed
            self._last = {
                "speed/tokens_per_second": rate,
                "speed/mfu": rate * self._flops / self._peak,
                "speed/data_wait": self.waited / elapsed,
            }
        self.restart()
        return dict(self._last)
