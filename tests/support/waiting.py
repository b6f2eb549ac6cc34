"""Waiting for what a process does, with an end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.fixtures.warm import WarmProcess


def wait_for(
    condition: Callable[[], bool],
    process: subprocess.Popen[Any] | WarmProcess | None = None,
    seconds: float = 60,
) -> None:
    """Wait until a condition holds, while ``process`` must be running."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, f"it ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def row_count(run_folder: Path) -> int:
    """Rows that a run has written so far."""
    metrics = run_folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.is_file() else 0


def wait_for_rows(
    run_folder: Path, number: int, process: subprocess.Popen[Any] | WarmProcess, seconds: float = 200
) -> None:
    """Wait until a run has written so many rows."""
    wait_for(lambda: row_count(run_folder) >= number, process, seconds)
