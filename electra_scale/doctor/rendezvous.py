"""How the ranks of an examination meet: a key-value store on the first rank, which shows how far each rank has come."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import PrefixStore, Store, TCPStore

from electra_scale.cluster.slurm import adopt_ranks, node_of_task, tasks_of_step
from electra_scale.train.engine.rendezvous import first_line

T = TypeVar("T")

_PAUSE = 0.05
GRACE = 5.0
"""Seconds that a rank which has given up has to report it."""


@dataclass(frozen=True)
class Rank:
    """A process of the examination and its node. Rank 0 listens at ``address`` and ``port``; port 0 means any free one,
    for a rank that is alone.

    ``expected`` is how many ranks each node should have, where the launcher says so; else it is empty.
    """

    number: int
    size: int
    node: str
    address: str
    port: int
    expected: dict[str, int]

    @property
    def first(self) -> bool:
        """Whether this rank gathers the results and prints the findings."""
        return self.number == 0


def own_rank(environment: MutableMapping[str, str]) -> Rank:
    """The rank of this process: a task of ``srun``, a process to which another launcher gave a rank, or one alone."""
    expected = tasks_of_step(environment) if adopt_ranks(environment) else {}
    node = node_of_task(environment) or socket.gethostname()
    if "RANK" not in environment:
        return Rank(0, 1, node, "127.0.0.1", 0, {})
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    return Rank(int(environment["RANK"]), int(environment["WORLD_SIZE"]), node, address, port, expected)


class TimedOut(Exception):
    """On the first rank: ``ranks`` did not reach a stage in time."""

    def __init__(self, stage: str, ranks: list[int]) -> None:
        super().__init__(f"{stage}: {ranks}")
        self.stage = stage
        self.ranks = ranks


class Aborted(Exception):
    """On the other ranks: the first rank has ended the examination, and reports the reason itself."""


class Unreachable(Exception):
    """This rank and the first one cannot reach each other; the message is one line for the user."""


class Rendezvous:
    """Ranks exchange values and wait for each other, by keys in a store on the first rank.

    ``wait`` is how many seconds a rank has to connect.

    Raises:
        Unreachable: the first rank's port is taken, or the first rank cannot be reached.
    """

    def __init__(self, rank: Rank, wait: float) -> None:
        self._rank = rank
        self._server: Store | None = None
        self._worker = ThreadPoolExecutor(1)
        address, self._port = rank.address, rank.port
        if rank.first:
            try:
                server = TCPStore(address, rank.port, is_master=True, wait_for_workers=False)
            except RuntimeError as error:
                raise Unreachable(
                    f"{rank.node}, the first node, cannot listen at {address}, port {rank.port} ({first_line(error)}): "
                    "end the program that uses the port, or choose another one (MASTER_PORT, --master_port)"
                ) from error
            self._server, self._port = server, server.port
        try:
            self._keys: Store = self.connect(wait)
        except RuntimeError as error:
            raise Unreachable(
                f"{rank.node} (rank {rank.number}) could not reach the first node at {address}, port {self._port}, "
                f"within {wait:g} s: the first node has not started, its name resolves to another address, or a "
                "firewall is between them"
            ) from error

    def connect(self, seconds: float) -> Store:
        """A new connection to the store, for use in another thread; its operations give up after ``seconds``."""
        address = "127.0.0.1" if self._rank.size == 1 else self._rank.address
        return TCPStore(address, self._port, is_master=False, timeout=timedelta(seconds=seconds))

    def gather(self, stage: str, value: Any, seconds: float) -> list[Any]:
        """Wait for all ranks at a stage; every rank's value on the first rank, an empty list on the others.

        Raises:
            TimedOut: on the first rank, if some rank's value is missing after ``seconds``.
            Aborted: on the others, which then have nothing more to do.
            Unreachable: on the others, if the first rank does not answer.
        """
        self._ask(stage, lambda: self._keys.set(f"{stage}/{self._rank.number}", json.dumps(value)), seconds)
        if not self._rank.first:
            # The first rank may arrive late itself, and then waits as long again for the others.
            if self.broadcast(f"{stage}/go", None, 2 * seconds + 2 * GRACE) is not True:
                raise Aborted
            return []
        keys = [f"{stage}/{rank}" for rank in range(self._rank.size)]
        deadline = time.monotonic() + seconds
        while not self._keys.check(keys):
            if time.monotonic() > deadline:
                missing = [rank for rank, key in enumerate(keys) if not self._keys.check([key])]
                self._keys.set(f"{stage}/go", "false")
                raise TimedOut(stage, missing)
            time.sleep(_PAUSE)
        self._keys.set(f"{stage}/go", "true")
        return [json.loads(self._keys.get(key)) for key in keys]

    def values(self, stage: str, ranks: list[int]) -> dict[int, Any]:
        """The values that these ranks have set at a stage."""
        return {rank: json.loads(self._keys.get(f"{stage}/{rank}")) for rank in ranks}

    def broadcast(self, key: str, value: Any, seconds: float) -> Any:
        """The first rank's value, on every rank; raises Unreachable on another rank if the first does not answer."""
        if self._rank.first:
            self._keys.set(key, json.dumps(value))
            return value
        self._keys.set_timeout(timedelta(seconds=seconds))
        return json.loads(self._ask(key, lambda: self._keys.get(key), seconds))

    def _ask(self, stage: str, operation: Callable[[], T], seconds: float) -> T:
        # A store whose process is stopped keeps its clients waiting for ever, whatever their timeout.
        try:
            return self._worker.submit(operation).result(timeout=seconds + GRACE)
        except (RuntimeError, TimeoutError) as error:
            raise Unreachable(
                f"{self._rank.node} (rank {self._rank.number}): the first rank does not answer (at {stage}); check the "
                "first node"
            ) from error

    def set_key(self, key: str, seconds: float) -> None:
        """Set a key without a value, for :meth:`wait_for_key`."""
        self._ask(key, lambda: self._keys.set(key, ""), seconds)

    def wait_for_key(self, key: str, seconds: float) -> None:
        """On the first rank: wait until a key is set; raises RuntimeError if it is not set in time."""
        self._keys.set_timeout(timedelta(seconds=seconds))
        self._keys.get(key)

    def leave(self, timed_out: list[int]) -> None:
        """End the rendezvous. The first rank leaves last, since the store ends with it: it waits a moment for all
        others but those that have timed out."""
        if not self._rank.first:
            # The first rank may have stopped waiting.
            with suppress(RuntimeError):
                self._keys.set(f"left/{self._rank.number}", "")
            return
        others = [f"left/{rank}" for rank in range(1, self._rank.size) if rank not in timed_out]
        deadline = time.monotonic() + GRACE
        while others and not self._keys.check(others) and time.monotonic() < deadline:
            time.sleep(_PAUSE)


def group_store(store: Store) -> Store:
    """The same store under a prefix of its own, for a process group."""
    return PrefixStore("group", store)
