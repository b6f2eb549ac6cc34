"""Shows the progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0


def log(message: str) -> None:
    """Print one line for the user, on stderr."""
    print(message, file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as ``1 shard`` and ``1,200 shards``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def track(steps: Iterator[None], total: int, done: int, label: str) -> None:
    """Run ``steps`` to the end and show how many of ``total`` are done; ``done`` of them were done before."""
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
            log(f"{label}: {done} of {total} tasks, about {(total - done) / rate:.0f} s left")
            last = now
    log(f"{label}: {done} of {total} tasks done in {time.monotonic() - started:.1f} s")
