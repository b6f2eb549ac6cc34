"""How often a request that failed is made again, how long to wait before, and where each retry is reported."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data_pipeline.errors import UserError

ATTEMPTS = 6
_FIRST_SECONDS = 0.2
_GROWTH = 3.0
_LONGEST_SECONDS = 20.0

_log = logging.getLogger("electra_scale.s3")


class Retries:
    """Counts every retry of this process and reports each to ``listener`` in one line.

    The listener may be called from any thread; by default lines go to the logger ``electra_scale.s3`` as warnings.
    """

    def __init__(self) -> None:
        self.count = 0
        self.listener: Callable[[str], None] = _log.warning
        self._lock = threading.Lock()
        # Not the global generator, which a library's own jitter would use: training seeds it, on all ranks alike, so
        # that waits would be the same everywhere and would change what is drawn afterwards.
        self._jitter = random.Random(os.urandom(16))

    def report(self, line: str) -> None:
        """Count one retry and pass the line on."""
        with self._lock:
            self.count += 1
        self.listener(line)

    @contextmanager
    def listening(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Have retries reported to ``listener`` within the block, and as before after it."""
        before, self.listener = self.listener, listener
        try:
            yield
        finally:
            self.listener = before

    def wait(self, failures: int) -> float:
        """Sleep before the next attempt, given how many have failed so far (>= 1); returns the seconds slept.

        The bound grows by 3 from 0.2 s up to 20 s; the wait is anything below it (full jitter).
        """
        seconds = self._jitter.uniform(0, min(_LONGEST_SECONDS, _FIRST_SECONDS * _GROWTH ** (failures - 1)))
        time.sleep(seconds)
        return seconds


retries = Retries()


def attempts_from(variable: str, text: str | int | None) -> int:
    """The number of attempts that a setting asks for, :data:`ATTEMPTS` if it is not set.

    Raises:
        UserError: it is not a whole number from 1 to 100.
    """
    if text is None or text == "":
        return ATTEMPTS
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 100:
        raise UserError(f"{variable} is {text!r}: give a whole number from 1 to 100")
    return number
