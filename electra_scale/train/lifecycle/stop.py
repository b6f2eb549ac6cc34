"""Requests to save and stop: a file or a signal to any rank, on which all ranks agree."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_POLL_SECONDS = 1.0
"""Between two checks for the file: it lies on shared storage, and every rank checks."""


class Stopped(Exception):
    """All ranks have agreed to stop; the text says why."""


class StopRequests:
    """What this process has been asked.

    Ranks vote in a collective operation that they make anyway, so that all stop at the same place: each adds its
    :meth:`votes`, and :meth:`raise_if_asked` decides by the sum. A handler only sets a flag, so a second
    signal does not harm a save.

    ``file``: whoever creates it asks for a stop; its text is the reason. ``signal_name``: USR1 and the like, listened
    to besides SIGTERM.
    """

    def __init__(self, file: Path | None = None, signal_name: str = "TERM") -> None:
        self.file = file
        self._signals = {signal.SIGTERM, signal.Signals[f"SIG{signal_name}"]}
        self._signalled = False
        self._filed = False
        self._looked = float("-inf")

    def listen(self) -> None:
        """Take over the signals; only the main thread of a process may."""
        for number in self._signals:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def asked(self) -> bool:
        """Whether this process knows of a request."""
        return any(self.votes())

    def votes(self) -> list[float]:
        """1 for a signal, 1 for the file, else 0."""
        now = time.monotonic()
        if self.file is not None and not self._filed and now - self._looked >= _POLL_SECONDS:
            self._looked = now
            self._filed = self.file.exists()
        return [float(self._signalled), float(self._filed)]

    def raise_if_asked(self, votes: Sequence[float], ranks: int) -> None:
        """Raise Stopped if any rank has voted for it; ``votes`` are summed over ``ranks``."""
        signalled, filed = votes
        if filed > 0:
            raise Stopped(f"{self.file} asks for it{self._text()}")
        if signalled > 0:
            raise Stopped(f"a signal to {signalled:.0f} of {ranks} ranks asks for it")

    def _text(self) -> str:
        try:
            text = " ".join(self.file.read_text().split()) if self.file is not None else ""
        except (OSError, UnicodeDecodeError):
            return ""
        return f" ({text[:200]})" if text else ""
