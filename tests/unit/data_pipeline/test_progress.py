"""Progress on long work: a bar where there is room for one, lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from tests.support.fixtures.runs import ROOT

TRACK = """
import time
from data_pipeline import progress
progress._SECONDS_BETWEEN_LINES = 0.1
progress.track((time.sleep(0.06) for _ in range(5)), 5, 0, "read")
"""


def shown(rows: int, columns: int, program: str, *arguments: str) -> str:
    """All that a program prints on a terminal of that size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:
            break
        if not part:
            break
        found += part
    os.close(ours)
    assert process.wait(60) == 0, found
    return found.decode()


@pytest.mark.parametrize(
    ("rows", "columns", "bar"),
    [(24, 80, True), (0, 0, False), (0, 80, False), (24, 0, False), (1, 80, False), (24, 5, False)],
)
def test_a_terminal_without_room_for_a_bar_gets_lines(rows: int, columns: int, bar: bool) -> None:
    text = shown(rows, columns, TRACK)
    assert ("read: 100%" in text) == bar, text
    assert ("read: 5 of 5 tasks done in" in text) == (not bar), text
    assert ("tasks, about" in text) == (not bar), text
