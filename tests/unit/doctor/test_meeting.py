"""Ranks that do not come are known by their number, and a first rank that stands still keeps nobody waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from electra_scale.doctor import meeting as module
from electra_scale.doctor.meeting import Absent, Apart, Dismissed, Meeting
from electra_scale.doctor.seat import Seat
from tests.support.fixtures.runs import environment
from tests.support.fixtures.s3 import free_ports

_FIRST = """
import sys, time
from electra_scale.doctor.meeting import Meeting
from electra_scale.doctor.seat import Seat
meeting = Meeting(Seat(0, 2, "n1", "127.0.0.1", int(sys.argv[1]), {}), 30)
print("here", flush=True)
time.sleep(60)
"""


def seat(rank: int, size: int, port: int) -> Seat:
    return Seat(rank, size, f"n{rank}", "127.0.0.1", port, {})


def test_notes_of_all_ranks_come_together_on_the_first() -> None:
    (port,) = free_ports(1)
    meetings = [Meeting(seat(rank, 3, port), 20) for rank in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda rank: meetings[rank].exchange("stage", f"of {rank}", 20), range(3)))
    assert found == [["of 0", "of 1", "of 2"], [], []]


def test_an_absent_rank_is_known_and_the_others_are_dismissed() -> None:
    (port,) = free_ports(1)
    meetings = [Meeting(seat(rank, 3, port), 20) for rank in range(2)]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(meetings[1].exchange, "stage", None, 20)
        with pytest.raises(Absent) as error:
            meetings[0].exchange("stage", None, 1)
        assert error.value.ranks == [2]
        with pytest.raises(Dismissed):
            other.result()


def test_a_first_rank_that_stands_still_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its store takes connections and answers none.
    monkeypatch.setattr(module, "GRACE", 0.1)
    (port,) = free_ports(1)
    command = [sys.executable, "-c", _FIRST, str(port)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "here\n"
            other = Meeting(seat(1, 2, port), 20)
            os.kill(first.pid, signal.SIGSTOP)
            with pytest.raises(Apart, match=r"n1 \(rank 1\): the first rank gives no sign \(stage/go\)"):
                other.exchange("stage", None, 0.2)
        finally:
            # A thread still waits for an answer; the end of the connection lets it go.
            first.kill()


def test_a_taken_port_is_named() -> None:
    (port,) = free_ports(1)
    taken = Meeting(seat(0, 2, port), 5)
    with pytest.raises(Apart, match=f"cannot listen at 127.0.0.1, port {port}"):
        Meeting(seat(0, 2, port), 5)
    assert taken.notes("stage", []) == {}
