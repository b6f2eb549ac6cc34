"""Notes that ranks leave on the first one: who has come how far, and so who is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import PrefixStore, Store, TCPStore

from electra_scale.doctor.seat import Seat

T = TypeVar("T")

_PAUSE = 0.05
GRACE = 5.0
"""Seconds that a rank which gave up by itself has to say so."""


class Absent(Exception):
    """On the first rank: ``ranks`` left no note in time at a stage."""

    def __init__(self, stage: str, ranks: list[int]) -> None:
        super().__init__(f"{stage}: {ranks}")
        self.stage = stage
        self.ranks = ranks


class Dismissed(Exception):
    """On the others: the first rank has ended the examination, and says why."""


class Apart(Exception):
    """This rank and the first one do not reach each other; says so in one line."""


class Meeting:
    """A store of notes on the first rank. ``wait`` is the time that ranks have to come.

    Raises:
        Apart: the first rank's port is taken, or the first rank is not to be reached.
    """

    def __init__(self, seat: Seat, wait: float) -> None:
        self._seat = seat
        self._server: Store | None = None
        self._talk = ThreadPoolExecutor(1)
        address, self._port = seat.address, seat.port
        if seat.first:
            try:
                server = TCPStore(address, seat.port, is_master=True, wait_for_workers=False)
            except RuntimeError as error:
                raise Apart(
                    f"{seat.node}, the first node, cannot listen at {address}, port {seat.port} ({first_line(error)}): "
                    "end what uses the port, or choose another one (MASTER_PORT, --master_port)"
                ) from error
            self._server, self._port = server, server.port
        try:
            self._notes: Store = self.another_store(wait)
        except RuntimeError as error:
            raise Apart(
                f"{seat.node} (rank {seat.rank}) did not reach the first node at {address}, port {self._port}, in "
                f"{wait:g} s: it has not started, its name leads elsewhere, or a firewall is between them"
            ) from error

    def another_store(self, seconds: float) -> Store:
        """A connection of its own, for use in another thread; operations give up after so many seconds."""
        address = "127.0.0.1" if self._seat.size == 1 else self._seat.address
        return TCPStore(address, self._port, is_master=False, timeout=timedelta(seconds=seconds))

    def exchange(self, stage: str, note: Any, seconds: float) -> list[Any]:
        """Leave a note and wait for all: every rank's note on the first rank, nothing on the others.

        Raises:
            Absent: on the first rank, after ``seconds`` without some rank's note.
            Dismissed: on the others, which then have nothing more to do.
            Apart: on the others, if the first rank gives no sign.
        """
        self._reached(stage, lambda: self._notes.set(f"{stage}/{self._seat.rank}", json.dumps(note)), seconds)
        if not self._seat.first:
            # The first rank may itself be as late as it is patient with others.
            if self.told(f"{stage}/go", None, 2 * seconds + 2 * GRACE) is not True:
                raise Dismissed
            return []
        keys = [f"{stage}/{rank}" for rank in range(self._seat.size)]
        deadline = time.monotonic() + seconds
        while not self._notes.check(keys):
            if time.monotonic() > deadline:
                absent = [rank for rank, key in enumerate(keys) if not self._notes.check([key])]
                self._notes.set(f"{stage}/go", "false")
                raise Absent(stage, absent)
            time.sleep(_PAUSE)
        self._notes.set(f"{stage}/go", "true")
        return [json.loads(self._notes.get(key)) for key in keys]

    def notes(self, stage: str, ranks: list[int]) -> dict[int, Any]:
        """What these ranks have left at a stage."""
        return {rank: json.loads(self._notes.get(f"{stage}/{rank}")) for rank in ranks}

    def told(self, key: str, value: Any, seconds: float) -> Any:
        """The first rank's value, on every rank; raises Apart on another rank if it gives no sign."""
        if self._seat.first:
            self._notes.set(key, json.dumps(value))
            return value
        self._notes.set_timeout(timedelta(seconds=seconds))
        return json.loads(self._reached(key, lambda: self._notes.get(key), seconds))

    def _reached(self, stage: str, work: Callable[[], T], seconds: float) -> T:
        # A store whose process stands still keeps who asks it waiting for ever, whatever its timeout.
        try:
            return self._talk.submit(work).result(timeout=seconds + GRACE)
        except (RuntimeError, TimeoutError) as error:
            raise Apart(
                f"{self._seat.node} (rank {self._seat.rank}): the first rank gives no sign ({stage}): see its node"
            ) from error

    def post(self, key: str, seconds: float) -> None:
        """Leave a note that is only there or not."""
        self._reached(key, lambda: self._notes.set(key, ""), seconds)

    def ask(self, key: str, seconds: float) -> None:
        """On the first rank: wait until a key is there; raises RuntimeError if it does not come."""
        self._notes.set_timeout(timedelta(seconds=seconds))
        self._notes.get(key)

    def leave(self, absent: list[int]) -> None:
        """The first rank goes last, since the notes go with it; it waits a moment for all that are not absent."""
        if not self._seat.first:
            # It may have given up waiting.
            with suppress(RuntimeError):
                self._notes.set(f"left/{self._seat.rank}", "")
            return
        others = [f"left/{rank}" for rank in range(1, self._seat.size) if rank not in absent]
        deadline = time.monotonic() + GRACE
        while others and not self._notes.check(others) and time.monotonic() < deadline:
            time.sleep(_PAUSE)


def apart(store: Store) -> Store:
    """The same store under a prefix, for a process group."""
    return PrefixStore("group", store)


def first_line(error: Exception) -> str:
    """What an error of torch says, without the stack of its C++."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
