"""What the network between the nodes carries: an all-reduce over all ranks, and data both ways between two nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from electra_scale.doctor.facts import uses_gpu
from electra_scale.doctor.rendezvous import Rank

MOST_NODES = 16
"""Up to this many nodes every pair is measured. With more, each node is measured with its two neighbours only: the
number of pairs grows with the square, and the first connection of two GPUs takes a moment."""

_REPEATS = 3
_SHORT = 10**6
_LONG = {"cpu": 64 * 10**6, "cuda": 256 * 10**6}


@dataclass(frozen=True)
class AllReduce:
    """An all-reduce of ``bytes`` on each rank: ``right`` if the sum is, and the best time, if it was timed."""

    bytes: int
    seconds: float | None
    right: bool


@dataclass(frozen=True)
class PairRate:
    """Bytes a second in each direction between two nodes, given by their numbers, while both send."""

    nodes: tuple[int, int]
    rate: float


class Links:
    """The process group of an examination. One thread calls all of it, since any call may hang."""

    def __init__(self, rank: Rank, store: dist.Store, seconds: float, short: bool) -> None:
        self._rank = rank
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cuda", local_rank) if uses_gpu() else torch.device("cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            # Without it a collective that hangs aborts the process without an error message.
            os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        self._short = short
        self._bytes = _SHORT if short else _LONG[self.device.type]
        dist.init_process_group(
            "nccl" if self.device.type == "cuda" else "gloo",
            store=store,
            rank=rank.number,
            world_size=rank.size,
            timeout=timedelta(seconds=seconds),
        )

    def all_reduce(self) -> AllReduce:
        """Sum over all ranks, checked."""
        size = self._rank.size
        pattern = torch.arange(self._bytes // 4, device=self.device).remainder_(97).float()
        value = pattern + self._rank.number
        dist.all_reduce(value)
        # Whole numbers of this size are exact in float32, whatever the order of the sum.
        right = torch.equal(value, pattern * size + size * (size - 1) // 2)
        seconds = None if self._short else self._best(lambda: dist.all_reduce(value.zero_()))
        return AllReduce(self._bytes, seconds, right)

    def pairs(self, rounds: list[list[tuple[int, int]]], first_ranks: list[int], amount: int) -> list[PairRate]:
        """Rates of the pairs that this rank is in, with ``amount`` bytes each way; ``first_ranks`` (nodes,) are the
        ranks that measure for their nodes."""
        found = []
        for pairs in rounds:
            # No rank begins the next round while another pair is still busy.
            dist.all_reduce(torch.zeros(1, device=self.device))
            for pair in pairs:
                ranks = [first_ranks[node] for node in pair]
                if self._rank.number in ranks:
                    peer = ranks[1] if self._rank.number == ranks[0] else ranks[0]
                    found.append(PairRate(pair, self._pair_rate(peer, amount)))
        return found

    def _pair_rate(self, peer: int, amount: int) -> float:
        sent = torch.ones(amount // 4, device=self.device)
        received = torch.empty_like(sent)

        def both_ways() -> None:
            operations = [dist.P2POp(dist.isend, sent, peer), dist.P2POp(dist.irecv, received, peer)]
            for work in dist.batch_isend_irecv(operations):
                work.wait()

        # The first exchange opens the connection.
        both_ways()
        return amount / self._best(both_ways)

    def _best(self, work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(_REPEATS):
            self._synchronize()
            began = time.perf_counter()
            work()
            self._synchronize()
            best = min(best, time.perf_counter() - began)
        return best

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Destroy the process group."""
        dist.destroy_process_group()


def pair_schedule(nodes: int) -> list[list[tuple[int, int]]]:
    """Rounds of pairs of nodes: no node is in two pairs of a round, and no pair is measured twice.

    Up to :data:`MOST_NODES` nodes these are all pairs; beyond that, the pairs of neighbours in a ring.
    """
    return ring(nodes) if nodes > MOST_NODES else tournament(nodes)


def tournament(nodes: int) -> list[list[tuple[int, int]]]:
    """Every node with every other (the circle method): one stays, the others move on by one place a round."""
    places: list[int | None] = [*range(nodes)]
    if nodes % 2:
        places.append(None)
    rounds = []
    for _ in range(len(places) - 1):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        rounds.append([(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None])
        places = [places[0], places[-1], *places[1:-1]]
    return [pairs for pairs in rounds if pairs]


def ring(nodes: int) -> list[list[tuple[int, int]]]:
    """Each node with the next one, for three nodes or more; an odd ring needs a third round for its last pair."""
    links = [(node, node + 1) for node in range(nodes - 1)]
    rounds = [links[::2], links[1::2]]
    closing = (0, nodes - 1)
    if nodes % 2:
        rounds.append([closing])
    else:
        rounds[1].append(closing)
    return rounds
