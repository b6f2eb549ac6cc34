"""Requests to save and stop: a file or a signal to any rank, on which all ranks agree."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from data_pipeline.signals import noticed_signals

_POLL_SECONDS = 1.0
"""Between two checks for the file: it lies on shared storage, and every rank checks."""

_AGAIN_SECONDS = {signal.SIGINT: 0.5, signal.SIGHUP: 5.0}
"""Signals by which people end a run, and the seconds in which a second one counts as the same.

A launcher passes a Ctrl-C on to ranks that have it from the terminal already; a terminal that is closed and the shell
in it both send SIGHUP.
"""

_LAST_WORDS_SECONDS = 2.0
"""That writing the status may take when a run is ended at once: its file system may hang."""


class Stopped(Exception):
    """All ranks have agreed to stop; the text says why."""


class StopRequests:
    """What this process has been asked.

    Ranks vote in a collective operation that they make anyway, so that all stop at the same place: each adds its
    :meth:`votes`, and :meth:`raise_if_asked` decides by the sum. A handler only sets a flag, so a second
    signal does not harm a save, unless it is a second SIGINT or SIGHUP: that one ends the process at once.

    ``file``: whoever creates it asks for a stop; its text is the reason. ``signal_name``: USR1 and the like, listened
    to besides SIGTERM, SIGINT and SIGHUP.

    ``ended_at_once`` gets the reason just before this process ends because of a signal.
    """

    def __init__(self, file: Path | None = None, signal_name: str = "TERM") -> None:
        self.file = file
        self.ended_at_once: Callable[[str], None] = lambda reason: None
        self._signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.Signals[f"SIG{signal_name}"]}
        self._handlers: dict[signal.Signals, Any] = {}
        self._asked_by: set[int] = set()
        self._asked_here = False
        self._noticed: dict[int, float] = {}
        self._joined = True
        self._filed = False
        self._looked = float("-inf")

    @contextmanager
    def listening(self, joined: bool = True) -> Iterator[None]:
        """Take over the signals meanwhile; only the main thread of a process may.

        ``joined``: the ranks have met. Otherwise, until :meth:`join`, a signal ends this process at once, since there
        is nobody to agree with and nothing to save.
        """
        self._joined = joined
        with noticed_signals(self._notice):
            self._take_over()
            try:
                yield
            finally:
                for number, handler in self._handlers.items():
                    signal.signal(number, handler)
                self._handlers.clear()

    def use(self, file: Path | None, signal_name: str) -> None:
        """What the options of the run name; to be called by the thread that listens."""
        self.file = file
        self._signals.add(signal.Signals[f"SIG{signal_name}"])
        self._take_over()

    def join(self) -> None:
        """The ranks have met: from now on they agree on a stop."""
        self._joined = True

    def _take_over(self) -> None:
        for number in self._signals - self._handlers.keys():
            before = signal.getsignal(number)
            # Started by nohup, or in the background of a script: these are not meant for it.
            if number in _AGAIN_SECONDS and before is signal.SIG_IGN:
                continue
            self._handlers[number] = before
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked_by.add(number)

    def _notice(self, number: int) -> None:
        """In a thread of its own: the main one may be in a collective operation for minutes."""
        if number not in self._handlers:
            return
        asked, now = signal.Signals(number), time.monotonic()
        if not self._joined:
            self._end_at_once(asked, f"{asked.name} before the ranks had met: nothing is lost; start it again")
        self._asked_by.add(number)
        if asked not in _AGAIN_SECONDS:
            return
        if number not in self._noticed:
            self._noticed[number] = now
            if _rank() == "0":
                _print(f"{asked.name}: the run saves and stops after this step; a second one ends it at once")
        elif now - self._noticed[number] >= _AGAIN_SECONDS[asked]:
            self._end_at_once(
                asked, f"ended at once by a second {asked.name}, without a save; resume with --resume auto"
            )

    def _end_at_once(self, number: signal.Signals, reason: str) -> None:
        _print(reason if _rank() == "0" else f"rank {_rank()}: {reason}")
        last_words = threading.Thread(target=self.ended_at_once, args=(reason,), daemon=True)
        last_words.start()
        last_words.join(_LAST_WORDS_SECONDS)
        os._exit(128 + number)

    def ask(self) -> None:
        """Have this process vote for a stop, as after a signal; from any thread."""
        self._asked_here = True

    def asked(self) -> bool:
        """Whether this process knows of a request."""
        return any(self.votes())

    def votes(self) -> list[float]:
        """1 for a signal, 1 for the file, else 0."""
        now = time.monotonic()
        if self.file is not None and not self._filed and now - self._looked >= _POLL_SECONDS:
            self._looked = now
            self._filed = self.file.exists()
        return [float(self._asked_here or bool(self._asked_by)), float(self._filed)]

    def raise_if_asked(self, votes: Sequence[float], ranks: int) -> None:
        """Raise Stopped if any rank has voted for it; ``votes`` are summed over ``ranks``."""
        signalled, filed = votes
        if filed > 0:
            raise Stopped(f"{self.file} asks for it{self._text()}")
        if signalled > 0:
            raise Stopped(f"a signal to {signalled:.0f} of {ranks} ranks asks for it")

    def raise_if_filed(self) -> None:
        """Raise Stopped if the file is there: each rank that waits for the others looks for itself."""
        _, filed = self.votes()
        self.raise_if_asked([0.0, filed], 1)

    def _text(self) -> str:
        try:
            text = " ".join(self.file.read_text().split()) if self.file is not None else ""
        except (OSError, UnicodeDecodeError):
            return ""
        return f" ({text[:200]})" if text else ""


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _print(sentence: str) -> None:
    # Not through sys.stderr, which the main thread may have locked while it waits for a slow reader.
    with contextlib.suppress(OSError):
        os.write(2, f"electra-scale: {sentence}\n".encode())
