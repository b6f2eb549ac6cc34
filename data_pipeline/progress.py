"""Shows the progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN_LINES = 15.0

_FEWEST_COLUMNS, _FEWEST_ROWS = 20, 2
"""Of a terminal that can show a bar; some that programs make (docker exec, continuous integration) have size 0 x 0."""


def log(message: str) -> None:
    """Print one line for the user, on stderr."""
    print(message, file=sys.stderr, flush=True)


def shows_bars() -> bool:
    """Whether stderr is a terminal with room for a bar; elsewhere progress is a line now and then."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno()) if sys.stderr.isatty() else (0, 0)
    except (OSError, ValueError):
        return False
    return columns >= _FEWEST_COLUMNS and rows >= _FEWEST_ROWS


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as ``1 shard`` and ``1,200 shards``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@contextmanager
def tracking(total: int, done: int, label: str, unit: str = "task") -> Iterator[Callable[[], object]]:
    """Show how much of ``total`` is done: ``done`` at first, and one more with each call of what this gives."""
    if shows_bars():
        # Most programs show none, and it takes a tenth of their start.
        from tqdm import tqdm

        with tqdm(total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True) as bar:
            yield bar.update
        return
    started = last = time.monotonic()
    first = done

    def advance() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES and done < total:
            rate = (done - first) / (now - started)
            log(f"{label}: {done} of {total} {unit}s, about {(total - done) / rate:.0f} s left")
            last = now

    yield advance
    log(f"{label}: {done} of {total} {unit}s done in {time.monotonic() - started:.1f} s")


def track(steps: Iterator[None], total: int, done: int, label: str) -> None:
    """Run ``steps`` to the end and show how many of ``total`` are done; ``done`` of them were done before."""
    with tracking(total, done, label) as advance:
        for _ in steps:
            advance()
