"""What a signal does to a process that trains, wherever its main thread is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from electra_scale.train.lifecycle.stop import Stopped, StopRequests
from tests.support.fixtures.runs import ROOT


def test_a_signal_only_sets_a_flag_and_a_file_gives_its_text(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    stop = StopRequests(tmp_path / "stop", "USR1")
    with stop.listening():
        assert not stop.asked()
        stop.raise_if_asked([0.0, 0.0], 4)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.votes() == [1.0, 0.0]
        with pytest.raises(Stopped, match="a signal to 2 of 4 ranks"):
            stop.raise_if_asked([2.0, 0.0], 4)
    assert {number: signal.getsignal(number) for number in before} == before
    (tmp_path / "stop").write_text("time\nis over\n")
    fresh = StopRequests(tmp_path / "stop")
    assert fresh.votes() == [0.0, 1.0]
    with pytest.raises(Stopped, match="time is over"):
        fresh.raise_if_asked([0.0, 1.0], 4)
    with pytest.raises(Stopped, match="time is over"):
        fresh.raise_if_filed()


PROGRAM = """
import hashlib, signal, sys, time
from electra_scale.train.lifecycle.stop import StopRequests

joined, ignored = sys.argv[1] == "joined", sys.argv[2:]
# The suite itself may run under nohup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
for name in ignored:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
stop = StopRequests()
stop.ended_at_once = lambda reason: print("status:", reason, flush=True)
with stop.listening(joined):
    print("listening", flush=True)
    # In a library, which comes back after minutes.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)
"""
"""A process whose main thread does not come back to Python."""


def started(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_before_the_ranks_have_met_ends_the_process_at_once_with_a_line(
    number: signal.Signals, processes: list[subprocess.Popen[str]]
) -> None:
    processes.append(started("alone"))
    processes[0].send_signal(number)
    out, err = processes[0].communicate(timeout=20)
    assert processes[0].returncode == 128 + number
    assert err.splitlines() == [
        f"electra-scale: {number.name} before the ranks had met: nothing is lost; start it again"
    ]
    assert out.startswith("status:")


def test_a_second_interrupt_ends_a_run_at_once_and_one_that_a_launcher_passes_on_does_not(
    processes: list[subprocess.Popen[str]],
) -> None:
    processes.append(started("joined"))
    # The terminal's, torchrun's, and what deepspeed makes of it.
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
        processes[0].send_signal(number)
    time.sleep(0.7)
    assert processes[0].poll() is None
    processes[0].send_signal(signal.SIGINT)
    out, err = processes[0].communicate(timeout=20)
    assert processes[0].returncode == 130
    assert "SIGINT: the run saves and stops after this step; a second one ends it at once" in err
    assert "ended at once by a second SIGINT, without a save" in err.splitlines()[-1]
    assert "ended at once by a second SIGINT" in out


def test_what_nohup_and_a_script_in_the_background_ignore_stays_ignored(
    processes: list[subprocess.Popen[str]],
) -> None:
    processes.append(started("alone", "SIGHUP", "SIGINT"))
    for number in (signal.SIGHUP, signal.SIGINT):
        processes[0].send_signal(number)
    time.sleep(0.5)
    assert processes[0].poll() is None
    processes[0].send_signal(signal.SIGTERM)
    assert processes[0].wait(20) == 143
