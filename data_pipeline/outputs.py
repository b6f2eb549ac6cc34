"""Standard output and error that may go away (a closed pipe or terminal, a full disk) without ending what runs."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)
"""A reader such as ``head`` has seen enough, the terminal is closed, or the file was closed at the start."""

_listeners: list[Callable[[str], None]] = []
_unreported: list[str] = []


class Output:
    """A text stream whose first failed write costs the stream and nothing else; from then on it takes what it is given.

    ``lost`` is why, None as long as it is whole. Everything else is the wrapped stream's.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.lost: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[[], object]) -> None:
        if self.lost is not None:
            return
        try:
            act()
        except BlockingIOError:
            # The reader of a stream that does not block is slow: this text is left out, the next may come through.
            return
        except (OSError, ValueError) as error:
            self.lost = error
            self._silence()
            _report(f"{self._name} can no longer be written ({_reason(error)}); what follows is in the log alone")

    def _silence(self) -> None:
        """Have the file lead nowhere: what is in buffers, libraries in C and the end of Python write there too."""
        with contextlib.suppress(OSError, ValueError):
            number = self._stream.fileno()
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, number)
            os.close(nothing)


def guard_outputs() -> None:
    """Wrap this process's standard output and error; each that was closed at the start leads nowhere."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file that is opened, a checkpoint perhaps, gets this number and all that is printed.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Output):
            continue
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115  as long as the process
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            # A name that the terminal's character set lacks.
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Output(stream, name))


def report_lost_outputs(listener: Callable[[str], None]) -> None:
    """Have ``listener`` told, in one line each, which outputs are lost, those before this call too."""
    _listeners[:] = [listener]
    while _unreported:
        listener(_unreported.pop(0))


def reader_is_gone() -> bool:
    """Whether nobody reads what is printed, so that a command which only prints may end."""
    return isinstance(sys.stdout, Output) and sys.stdout.lost is not None


def refused() -> str | None:
    """Why standard output could not be written although somebody wants it, as on a full disk; else None."""
    lost = sys.stdout.lost if isinstance(sys.stdout, Output) else None
    if lost is None or getattr(lost, "errno", None) in _NOBODY_READS:
        return None
    return _reason(lost)


def _report(sentence: str) -> None:
    if not _listeners:
        _unreported.append(sentence)
    for listener in _listeners:
        # Whoever prints knows nothing of the listener, which may be at its end.
        with contextlib.suppress(OSError, ValueError):
            listener(sentence)


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)
