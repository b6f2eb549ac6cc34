"""Ranks that do not answer are known by their numbers, and a first rank that hangs keeps no other rank waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from electra_scale.doctor import rendezvous as module
from electra_scale.doctor.rendezvous import Aborted, Rank, Rendezvous, TimedOut, Unreachable
from tests.support.fixtures.runs import environment
from tests.support.fixtures.s3 import free_ports

_FIRST = """
import sys, time
from electra_scale.doctor.rendezvous import Rank, Rendezvous
rendezvous = Rendezvous(Rank(0, 2, "n1", "127.0.0.1", int(sys.argv[1]), {}), 30)
print("listening", flush=True)
time.sleep(60)
"""


def rank_of(number: int, size: int, port: int) -> Rank:
    return Rank(number, size, f"n{number}", "127.0.0.1", port, {})


def test_the_values_of_all_ranks_are_gathered_on_the_first() -> None:
    (port,) = free_ports(1)
    ranks = [Rendezvous(rank_of(number, 3, port), 20) for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda number: ranks[number].gather("stage", f"of {number}", 20), range(3)))
    assert found == [["of 0", "of 1", "of 2"], [], []]


def test_a_rank_that_times_out_is_known_and_the_others_abort() -> None:
    (port,) = free_ports(1)
    ranks = [Rendezvous(rank_of(number, 3, port), 20) for number in range(2)]
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(ranks[1].gather, "stage", None, 20)
        with pytest.raises(TimedOut) as error:
            ranks[0].gather("stage", None, 1)
        assert error.value.ranks == [2]
        with pytest.raises(Aborted):
            other.result()


def test_a_first_rank_that_hangs_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its store accepts connections and answers none.
    monkeypatch.setattr(module, "GRACE", 0.1)
    (port,) = free_ports(1)
    command = [sys.executable, "-c", _FIRST, str(port)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "listening\n"
            other = Rendezvous(rank_of(1, 2, port), 20)
            os.kill(first.pid, signal.SIGSTOP)
            with pytest.raises(Unreachable, match=r"n1 \(rank 1\): the first rank does not answer \(at stage/go\)"):
                other.gather("stage", None, 0.2)
        finally:
            # A thread still waits for an answer; the end of the connection ends it.
            first.kill()


def test_a_taken_port_is_named() -> None:
    (port,) = free_ports(1)
    taken = Rendezvous(rank_of(0, 2, port), 5)
    with pytest.raises(Unreachable, match=f"cannot listen at 127.0.0.1, port {port}"):
        Rendezvous(rank_of(0, 2, port), 5)
    assert taken.values("stage", []) == {}
