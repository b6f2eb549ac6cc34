"""Ranks that cannot meet say why, and what they wait for, within a bounded time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from torch.distributed import TCPStore

from data_pipeline.errors import UserError
from electra_scale.train.engine import rendezvous
from electra_scale.train.engine.rendezvous import Launched, Rendezvous, launched_rank
from tests.support.fixtures.s3 import free_ports

GIVEN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_FIRST_LINE_SECONDS", 0.2), ("_NEXT_LINES_SECONDS", 0.3), ("_ANSWER_SECONDS", 2.0)):
        monkeypatch.setattr(rendezvous, name, seconds)
    monkeypatch.setattr(rendezvous, "_CONNECT_SECONDS", 1.0)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)


def meet(*ranks: Launched, wait: float = 20.0) -> tuple[list[Rendezvous | Exception], list[str]]:
    """What becomes of each rank, all of them at once, and the lines that they have logged."""
    found: list[Rendezvous | Exception] = [RuntimeError("it does not come back")] * len(ranks)
    lines: list[str] = []

    def join(number: int) -> None:
        try:
            found[number] = Rendezvous(ranks[number], wait, lines.append)
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=join, args=(number,), daemon=True) for number in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found, lines


def test_a_rank_comes_from_the_variables_of_a_launcher() -> None:
    assert launched_rank(GIVEN) == Launched(1, 2, "127.0.0.1", 29500)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"MASTER_ADDR": ""},
            "RANK, WORLD_SIZE, MASTER_PORT, LOCAL_RANK are set in the environment, but not MASTER_ADDR",
        ),
        ({"WORLD_SIZE": "", "MASTER_PORT": "", "LOCAL_RANK": "", "MASTER_ADDR": ""}, "RANK is set in the environment"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "2"}, "RANK is 2 and WORLD_SIZE 2"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE 0"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is 0"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000"),
    ],
)
def test_variables_left_over_in_a_shell_are_refused_by_name(changes: dict[str, str], named: str) -> None:
    with pytest.raises(UserError) as refused:
        launched_rank(GIVEN | changes)
    assert named in str(refused.value)


def test_ranks_meet_in_any_order_and_log_nothing(port: int) -> None:
    found, lines = meet(*(Launched(rank, 3, "localhost", port) for rank in (2, 1, 0)))
    assert all(isinstance(each, Rendezvous) for each in found), found
    assert lines == []


def test_a_rank_waits_no_longer_than_a_tenth_more_than_the_others_take(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, slept, came = [0.0], list[float](), list[Rendezvous]()

    class Clock:
        monotonic = staticmethod(lambda: now[0])

        @staticmethod
        def sleep(seconds: float) -> None:
            slept.append(seconds)
            now[0] += seconds
            # Rank 0 begins to listen after three seconds.
            if now[0] >= 3 and not servers:
                servers.append(TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False))
                servers[0].set("electra-scale/0/size", "2")
                servers[0].set("electra-scale/0/go", "")

    servers: list[TCPStore] = []
    monkeypatch.setattr(rendezvous, "time", Clock)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    came.append(Rendezvous(Launched(1, 2, "127.0.0.1", port), 20.0, lambda line: None))
    assert slept[0] == 0.02
    assert now[0] <= 3.3
    assert len(slept) < 60


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A program that has a port, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.usefixtures("quick")
def test_a_taken_port_is_named_with_who_has_it_and_what_to_do(listener: socket.socket) -> None:
    taken = listener.getsockname()[1]
    (error,), _ = meet(Launched(0, 2, "127.0.0.1", taken))
    assert f"port {taken} of this host" in str(error)
    assert f"ss -ltnp 'sport = :{taken}'" in str(error)
    assert "--master_port" in str(error)
    (error,), lines = meet(Launched(1, 2, "127.0.0.1", taken))
    assert lines == [f"waiting for an answer at 127.0.0.1:{taken}: is it rank 0?"]
    assert "another program has the port" in str(error)


@pytest.mark.usefixtures("quick")
def test_a_rank_that_waits_says_for_whom_and_gives_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (error,), lines = meet(Launched(0, 3, "127.0.0.1", port), wait=1.0)
    assert f"waiting for 2 of 3 ranks at 127.0.0.1:{port} (ranks 1, 2)" in str(error)
    assert "unset RANK and WORLD_SIZE" in str(error)
    assert 2 <= len(lines) <= 5
    assert "waiting for 2 of 3 ranks" in lines[0]
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    (error,), lines = meet(Launched(0, 2, "127.0.0.1", free_ports(1)[0]), wait=2.0)
    assert "(rank 1)" in lines[-1]
    assert "unset SLURM_STEP_NUM_TASKS" in str(error)


@pytest.mark.usefixtures("quick")
def test_a_rank_without_rank_0_says_where_it_looks_and_gives_up(port: int) -> None:
    (error,), lines = meet(Launched(1, 2, "127.0.0.1", port), wait=1.0)
    assert f"waiting for rank 0 at 127.0.0.1:{port} (Connection refused)" in lines[0]
    assert "MASTER_ADDR or MASTER_PORT" in str(error)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_that_is_no_host_is_named(rank: int, port: int) -> None:
    began = time.monotonic()
    (error,), lines = meet(Launched(rank, 2, "no-such-host.invalid", port), wait=1.0)
    assert "MASTER_ADDR is 'no-such-host.invalid'" in str(error)
    assert lines
    assert time.monotonic() - began < 20


def test_ranks_of_different_sizes_are_all_refused_with_both(port: int) -> None:
    found, _ = meet(
        Launched(0, 3, "127.0.0.1", port), Launched(1, 3, "127.0.0.1", port), Launched(2, 4, "127.0.0.1", port)
    )
    assert len({str(each) for each in found}) == 1, found
    assert "rank 2 on " in str(found[0])
    assert "WORLD_SIZE 4, but rank 0" in str(found[0])
    assert type(found[0]) is UserError


def test_two_processes_of_one_rank_are_told_apart_and_the_second_is_refused(port: int) -> None:
    found, _ = meet(Launched(0, 2, "127.0.0.1", port), *[Launched(1, 2, "127.0.0.1", port)] * 2)
    refused = [each for each in found if isinstance(each, Exception)]
    assert len(refused) == 1
    assert f"there is a rank 1 at 127.0.0.1:{port} already" in str(refused[0])


class Stop(Exception):
    """Somebody asks for it."""


@pytest.fixture
def gone() -> Iterator[tuple[int, threading.Event]]:
    """A port at which rank 0 listened when it was looked for, and not any more when it is asked; and when that is."""
    ended = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def leave() -> None:
        server.accept()
        server.close()
        ended.set()

    threading.Thread(target=leave, daemon=True).start()
    yield server.getsockname()[1], ended
    server.close()


def test_a_stop_ends_the_waiting_for_a_rank_0_that_has_followed_it_already(gone: tuple[int, threading.Event]) -> None:
    port, ended = gone

    def stop() -> None:
        if ended.is_set():
            raise Stop

    with pytest.raises(Stop):
        Rendezvous(Launched(1, 2, "127.0.0.1", port), 20.0, print, stop)


@pytest.mark.usefixtures("quick")
def test_a_stop_that_rank_0_has_followed_while_others_waited_for_ranks_ends_these_too(port: int) -> None:
    """Its store ends with it, which is no error then."""
    asked = threading.Event()
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    found: list[Exception] = []

    def stop() -> None:
        # Somebody asks for it between two looks of this rank, and rank 0 has ended by the next one.
        if "ended" in ends:
            raise Stop
        if asked.is_set():
            ends.append("ended")
            raise RuntimeError("Connection reset by peer")

    ends: list[str] = []
    threading.Timer(0.3, asked.set).start()
    try:
        Rendezvous(Launched(1, 2, "127.0.0.1", port), 20.0, print, stop)
    except Exception as error:
        found.append(error)
    del store
    assert [type(error) for error in found] == [Stop]


@pytest.mark.usefixtures("quick")
def test_a_rank_0_that_ends_before_it_is_reached_is_not_taken_for_another_program(
    gone: tuple[int, threading.Event],
) -> None:
    (error,), _ = meet(Launched(1, 2, "127.0.0.1", gone[0]))
    assert f"nothing listens at 127.0.0.1:{gone[0]} any more: rank 0 ended" in str(error)


def test_a_stop_ends_the_waiting(port: int) -> None:
    def stop() -> None:
        raise Stop

    for rank in (0, 1):
        with pytest.raises(Stop):
            Rendezvous(Launched(rank, 2, "127.0.0.1", port), 20.0, print, stop)
