"""A process of the examination among the others, and how one that a launcher started finds its place."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from electra_scale.cluster.slurm import adopt_ranks, node_of_task, tasks_of_step


@dataclass(frozen=True)
class Seat:
    """A rank on a node. The first rank listens at ``address`` and ``port``; 0 is any port, for a rank that is alone.

    ``expected`` is how many ranks each node should have, as far as the launcher has told.
    """

    rank: int
    size: int
    node: str
    address: str
    port: int
    expected: dict[str, int]

    @property
    def first(self) -> bool:
        """Whether this rank gathers, judges and prints."""
        return self.rank == 0


def take_seat(environment: MutableMapping[str, str]) -> Seat:
    """The place of a task of ``srun``, of a process that another launcher has given a rank, or of one that is alone."""
    expected = tasks_of_step(environment) if adopt_ranks(environment) else {}
    node = node_of_task(environment) or socket.gethostname()
    if "RANK" not in environment:
        return Seat(0, 1, node, "127.0.0.1", 0, {})
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    return Seat(int(environment["RANK"]), int(environment["WORLD_SIZE"]), node, address, port, expected)


def local_rank() -> int:
    """Which of its node's devices this process uses."""
    return int(os.environ.get("LOCAL_RANK", "0"))
