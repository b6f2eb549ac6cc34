"""From a command to its exit code, the same for every program: errors, interrupts and outputs that go away."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.outputs import guard_outputs, refused
from data_pipeline.places.system_errors import refused_by_system
from data_pipeline.signals import noticed_signals

INTERRUPTED = 128 + signal.SIGINT

_UNWINDING_SECONDS = 3.0
"""That a command has after Ctrl-C; a library that does not come back, or workers in a long task, end no later."""


def run_command(program: str, command: Callable[[], int], advice: str = "run the same command again") -> int:
    """The exit code of ``command``: its own, 2 for a UserError, 130 for Ctrl-C; one line on stderr for either.

    A reader of its output that leaves early ends it quietly and changes no exit code. An output that cannot be written
    for another reason is an error, since somebody waits for it.
    """
    guard_outputs()
    _collect_less_garbage()
    interrupt = _Interrupt(f"{program}: interrupted; {advice}")
    with noticed_signals(interrupt.notice), _swallowed_at_once(interrupt):
        try:
            code = command()
        except UserError as error:
            print(f"{program}: error: {error}", file=sys.stderr)
            code = 2
        except OSError as error:
            print(f"{program}: error: {refused_by_system(error)}", file=sys.stderr)
            code = 2
        except BaseException as error:
            if not _interrupted(error):
                raise
            code = INTERRUPTED
    if interrupt.asked or code == INTERRUPTED:
        # A library may have swallowed it, such as one that tries an import and goes on without it: whoever pressed
        # Ctrl-C expects no success.
        interrupt.report()
        code = INTERRUPTED
    sys.stdout.flush()
    sys.stderr.flush()
    reason = refused()
    if reason is not None:
        print(
            f"{program}: error: the output could not be written ({reason}); free some space, or send it elsewhere, and "
            "run the same command again",
            file=sys.stderr,
        )
        code = code or 2
    return code


@cache
def _collect_less_garbage() -> None:
    """Imports make a million objects that stay: looking through them again and again took a tenth of a start, and the
    last time, when Python ends, is for nothing."""
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the root of an error: what it cut off may have made another one of it, as a class does that
    was just being defined."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def _swallowed_at_once(interrupt: _Interrupt) -> Iterator[None]:
    """Ctrl-C that Python drops with a traceback, since it came in a finaliser or a weak reference's callback (importing
    has many), ends the command as a second one does."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            interrupt.end()
        before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


class _Interrupt:
    """Ctrl-C: the command unwinds, but not for long; a second one ends it at once."""

    def __init__(self, line: str) -> None:
        self._line = line
        self.asked = False
        self._lock = threading.Lock()

    def notice(self, number: int) -> None:
        # A command that has taken over the signal has its own way to end.
        if number != signal.SIGINT or signal.getsignal(number) is not signal.default_int_handler:
            return
        if self.asked:
            self.end()
        self.asked = True
        timer = threading.Timer(_UNWINDING_SECONDS, self.end)
        timer.daemon = True
        timer.start()

    def report(self) -> None:
        with self._lock:
            line, self._line = self._line, ""
        if line:
            print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)

    def end(self) -> None:
        self.report()
        os._exit(INTERRUPTED)
