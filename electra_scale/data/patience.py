"""How long a store may fail to answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from data_pipeline.errors import OneRankError
from data_pipeline.places.place import Unavailable

T = TypeVar("T")


_FIRST_SECONDS = 1.0


_LONGEST_SECONDS = 30.0


class Patience:
    """How long a store may fail to answer, counted from its first failure; any thread may report.

    ``say`` gets one line per failed try, and one when the store answers again. ``minutes`` until giving up.
    """

    def __init__(self, minutes: float, say: Callable[[str], None]) -> None:
        self.minutes = minutes
        self.say = say
        self.failures = 0
        self._began: float | None = None
        self._tries = 0
        self._reason = ""
        self._lock = threading.Lock()

    def failed(self, error: Unavailable, tries: int) -> float:
        """Report a failure of a request that has been tried ``tries`` times; seconds to wait before the next try."""
        with self._lock:
            now = time.monotonic()
            if self._began is None:
                self._began, self._tries = now, 0
            self._tries += 1
            self.failures += 1
            self._reason = str(error)
            left = max(0.0, self.minutes - (now - self._began) / 60)
            number = self._tries
        self.say(
            f"the store does not answer ({error}); training goes on from the cache; "
            f"try {number}, giving up in {left:.3g} min"
        )
        return float(min(_FIRST_SECONDS * 2.0 ** (tries - 1), _LONGEST_SECONDS, max(60 * left, 0.1)))

    def answered(self) -> None:
        """Report that a request was answered."""
        if self._began is None:
            return
        with self._lock:
            if self._began is None:
                return
            minutes = (time.monotonic() - self._began) / 60
            self._began = None
        self.say(f"the store answers again after {minutes:.3g} min")

    def check(self) -> None:
        """Raise OneRankError with the reason if the store has failed to answer for too long."""
        with self._lock:
            if self._began is not None and time.monotonic() - self._began >= 60 * self.minutes:
                raise OneRankError(
                    f"giving up after {self.minutes:g} min (data.give_up_minutes, {self._tries} tries): "
                    f"{self._reason}; go on with --resume auto when the store answers again"
                )

    def insist(self, action: Callable[[], T]) -> T:
        """Do ``action``, again and again while the store does not answer and the time is not over."""
        tries = 0
        while True:
            try:
                result = action()
            except Unavailable as error:
                tries += 1
                seconds = self.failed(error, tries)
                self.check()
                time.sleep(seconds)
            else:
                # An action that never failed may not have asked the store at all.
                if tries:
                    self.answered()
                return result
