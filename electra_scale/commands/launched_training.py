"""A training under a launcher, started by another command, which passes on the wish to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType

from data_pipeline.places.atomic import write_bytes


def run_training(command: list[str], stop_file: Path) -> bool:
    """Run the training to its end; whether it was asked to stop, by Ctrl-C or another signal.

    The launcher would end ranks that are saving, so it and they are in a session of their own, which the terminal's
    signals do not reach: the stop file asks them. A second signal ends them all at once.
    """
    asked: list[int] = []
    stop_file.unlink(missing_ok=True)
    process = subprocess.Popen(command, start_new_session=True)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 1:
            _kill(process)
            return
        write_bytes(stop_file, f"{signal.Signals(number).name} to the demo\n".encode())
        print("\nelectra-scale: the training saves and stops after this step; once more ends it at once", flush=True)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What is ignored, as by nohup, stays so.
    before = {
        number: signal.signal(number, ask) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        process.wait()
    finally:
        _kill(process)
        stop_file.unlink(missing_ok=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(asked)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and what it has started, if any of it is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
