"""Whether a process is gone is known where it can be seen, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from electra_scale.cluster import process
from electra_scale.cluster.process import this_process
from tests.support.waiting import wait_for


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    child.kill()
    child.wait()


def known(child: subprocess.Popen[bytes]) -> process.Process:
    found = process._stat(child.pid)
    assert found is not None
    return replace(this_process(), pid=child.pid, started=found[1])


def test_a_process_is_alive_until_it_is_killed_also_before_its_parent_has_looked(
    sleeper: subprocess.Popen[bytes],
) -> None:
    assert this_process().state() == "alive"
    child = known(sleeper)
    assert child.state() == "alive"
    sleeper.kill()
    # Until then it is a zombie, as in a container whose first process does not look after others.
    wait_for(lambda: child.state() == "gone")
    sleeper.wait()
    assert child.state() == "gone"


def test_a_killed_process_is_not_alive_while_its_memory_is_given_back() -> None:
    program = "import time; held = bytearray(b'x') * (1 << 28); print('there', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = known(child)
        child.kill()
        states = [found.state()]
        while states[-1] != "gone":
            states.append(found.state())
    assert set(states) <= {"unknown", "gone"}


def test_a_number_that_was_given_again_is_not_the_same_process(sleeper: subprocess.Popen[bytes]) -> None:
    child = known(sleeper)
    assert replace(child, started=child.started - 1).state() == "gone"


def test_a_stopped_process_may_continue_or_not(sleeper: subprocess.Popen[bytes]) -> None:
    child = known(sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    wait_for(lambda: child.state() == "unknown")
    sleeper.send_signal(signal.SIGCONT)
    wait_for(lambda: child.state() == "alive")


@pytest.mark.parametrize("changes", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"boot": "", "namespace": ""}])
def test_nothing_is_known_from_another_boot_or_container(changes: dict[str, str]) -> None:
    """Not even that it is gone: hosts of a cluster, and containers, may have one name."""
    assert replace(this_process(), **changes).state() == "unknown"
    assert replace(this_process(), **changes, pid=1 << 22).state() == "unknown"
