"""How long a store may fail to answer before a run ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from data_pipeline.errors import OneRankError
from data_pipeline.places.place import Unavailable

T = TypeVar("T")

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
"""Seconds between attempts: doubled after each failure of a request, from the first up to the longest."""


class RetryBudget:
    """How many minutes a store may fail to answer, counted from its first failure until its next answer.

    One budget is shared by all threads and requests of a process. ``log`` gets a line for each failed attempt, and one
    when the store answers again.
    """

    def __init__(self, minutes: float, log: Callable[[str], None]) -> None:
        self.minutes = minutes
        self.log = log
        self.failures = 0
        self._failing_since: float | None = None
        self._attempts = 0
        self._reason = ""
        self._lock = threading.Lock()

    def failed(self, error: Unavailable, attempts: int) -> float:
        """Count a failure of a request that was made ``attempts`` times; returns the seconds to wait before the next.

        The pause never reaches far beyond the end of the budget.
        """
        with self._lock:
            now = time.monotonic()
            if self._failing_since is None:
                self._failing_since, self._attempts = now, 0
            self._attempts += 1
            self.failures += 1
            self._reason = str(error)
            left = max(0.0, self.minutes - (now - self._failing_since) / 60)
            number = self._attempts
        self.log(
            f"the store does not answer ({error}); training continues from the cache; "
            f"attempt {number}, giving up in {left:.3g} min"
        )
        return float(min(_FIRST_PAUSE * 2.0 ** (attempts - 1), _LONGEST_PAUSE, max(60 * left, 0.1)))

    def answered(self) -> None:
        """The store has answered a request that had failed before: the budget is full again."""
        with self._lock:
            if self._failing_since is None:
                return
            minutes = (time.monotonic() - self._failing_since) / 60
            self._failing_since = None
        self.log(f"the store answers again after {minutes:.3g} min")

    def check(self) -> None:
        """Raise OneRankError, with the last reason, if the store has failed to answer for longer than the budget."""
        with self._lock:
            if self._failing_since is not None and time.monotonic() - self._failing_since >= 60 * self.minutes:
                attempts = f"{self._attempts} attempt{'' if self._attempts == 1 else 's'}"
                raise OneRankError(
                    f"giving up after {self.minutes:g} min and {attempts} (data.give_up_minutes): {self._reason}; "
                    "continue with --resume auto when the store answers again"
                )

    def retry(self, request: Callable[[], T]) -> T:
        """The result of ``request``, made again while the store does not answer.

        Raises:
            OneRankError: the budget is used up.
        """
        attempts = 0
        while True:
            try:
                result = request()
            except Unavailable as error:
                attempts += 1
                seconds = self.failed(error, attempts)
                self.check()
                time.sleep(seconds)
            else:
                # A request that never failed may have been served from the cache, and says nothing about the store.
                if attempts:
                    self.answered()
                return result
