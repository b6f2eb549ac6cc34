"""Signals are noticed at once, also while the main thread is in a long call of a library."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def noticed_signals(notice: Callable[[int], None]) -> Iterator[None]:
    """Call ``notice``, in a thread of its own, with the number of each signal that Python has a handler for.

    A handler itself runs in the main thread, when that comes back to Python: after a collective operation of ten
    minutes, for one. Outside the main thread of a process, which alone may take over signals, nothing is noticed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receive, send = os.pipe()
    os.set_blocking(send, False)
    before = signal.set_wakeup_fd(send, warn_on_full_buffer=False)

    def listen() -> None:
        while numbers := os.read(receive, 64):
            for number in numbers:
                notice(number)

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(send)
        listener.join(1.0)
        if not listener.is_alive():
            os.close(receive)
