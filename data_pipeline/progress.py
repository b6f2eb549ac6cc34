"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0


def say(message: str) -> None:
    """One line for the user, on stderr."""
    print(message, file=sys.stderr, flush=True)


def track(steps: Iterator[None], total: int, done: int, label: str) -> None:
    """Run ``steps`` to the end and show how many of ``total`` are done, ``done`` of them before."""
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label, unit="task", dynamic_ncols=True) as bar:
            for _ in steps:
                bar.update()
        return
    started = last = time.monotonic()
    first = done
    for _ in steps:
        done += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            rate = (done - first) / (now - started)
            say(f"{label}: {done} of {total} tasks, about {(total - done) / rate:.0f} s left")
            last = now
    say(f"{label}: {done} of {total} tasks done in {time.monotonic() - started:.1f} s")
