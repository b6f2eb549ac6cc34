"""Where the time of a process goes: parts of a step that follow one another and add up to the whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.profiler import record_function

PARTS = ("data_wait", "forward", "backward", "exchange", "optimizer", "logging", "other")
"""Of the time between two logged steps: waiting for a batch; forward passes; backward passes without the exchange in
them; everything that waits for other ranks; the update without its exchange; what writes and reports; the rest."""

LEFT_OUT = "left_out"
"""The part of what is no training: evaluation, probes, saving."""

_FOLDED_AT = 256
"""Events after which those that the device has passed are read, so that a long interval keeps few."""


class Stopwatch:
    """Splits the time of this process into :data:`PARTS`, each moment into the innermost part that is open.

    On a CUDA device it is the device's time: each change of part puts an event on the stream, and events are read once
    the device has passed them, so that the host never waits. Time in which the device has nothing to do is that of the
    part in which it waits for work. Elsewhere it is the time of the host's clock.

    Attributes:
        named: while torch's profiler records, parts are ranges of its trace.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.named = False
        self._on_device = device is not None and device.type == "cuda"
        self._part = "other"
        self._seconds: dict[str, float] = {}
        # Events that the device may not have passed yet, each with the part that it ends, and those to use again.
        self._pending: deque[tuple[str, Any]] = deque()
        self._free: list[Any] = []
        self._last: Any = self._now()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done inside takes the time of this part, not of the one around it."""
        outer = self._part
        self._end(outer)
        self._part = name
        try:
            with record_function(name) if self.named else nullcontext():
                yield
        finally:
            self._end(name)
            self._part = outer

    def read(self) -> dict[str, float]:
        """Seconds of each of :data:`PARTS` since the last call; on a device, as far as it has got."""
        self._end(self._part)
        self._fold()
        seconds, self._seconds = self._seconds, {}
        return {name: seconds.get(name, 0.0) for name in PARTS}

    def _now(self) -> Any:
        if not self._on_device:
            return time.monotonic()
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _end(self, name: str) -> None:
        if not self._on_device:
            now = time.monotonic()
            self._add(name, now - self._last)
            self._last = now
            return
        if torch.cuda.current_stream() != torch.cuda.default_stream():
            # What runs beside the computation takes no time of its own.
            return
        self._pending.append((name, self._now()))
        if len(self._pending) >= _FOLDED_AT:
            self._fold()

    def _fold(self) -> None:
        while self._pending and self._pending[0][1].query():
            name, event = self._pending.popleft()
            self._add(name, self._last.elapsed_time(event) / 1000)
            self._free.append(self._last)
            self._last = event

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
