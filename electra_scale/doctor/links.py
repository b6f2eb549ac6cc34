"""What the network carries: an all-reduce over all ranks, and data both ways between two nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from electra_scale.doctor.facts import uses_gpu
from electra_scale.doctor.seat import Seat, local_rank

_REPEATS = 3
_SHORT = 10**6
_LONG = {"cpu": 64 * 10**6, "cuda": 256 * 10**6}


@dataclass(frozen=True)
class AllReduce:
    """The sum over all ranks was ``right``; so many bytes on each took so many seconds, the best of a few, if timed."""

    bytes: int
    seconds: float | None
    right: bool


@dataclass(frozen=True)
class PairRate:
    """Bytes a second each way between two nodes, by their numbers, while both send."""

    nodes: tuple[int, int]
    rate: float


class Links:
    """The process group of an examination. All of it is called in one thread, which may come to a stand."""

    def __init__(self, seat: Seat, store: dist.Store, seconds: float, short: bool) -> None:
        self._seat = seat
        self.device = torch.device("cuda", local_rank()) if uses_gpu() else torch.device("cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            # Without it a collective that never ends is an abort of the process, with nothing said.
            os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        self._short = short
        self._bytes = _SHORT if short else _LONG[self.device.type]
        dist.init_process_group(
            "nccl" if self.device.type == "cuda" else "gloo",
            store=store,
            rank=seat.rank,
            world_size=seat.size,
            timeout=timedelta(seconds=seconds),
        )

    def all_reduce(self) -> AllReduce:
        """Sum over all ranks, checked."""
        size = self._seat.size
        pattern = torch.arange(self._bytes // 4, device=self.device).remainder_(97).float()
        value = pattern + self._seat.rank
        dist.all_reduce(value)
        # Whole numbers of this size are exact in float32, whatever the order of the sum.
        right = torch.equal(value, pattern * size + size * (size - 1) // 2)
        seconds = None if self._short else self._best(lambda: dist.all_reduce(value.zero_()))
        return AllReduce(self._bytes, seconds, right)

    def pairs(self, rounds: list[list[tuple[int, int]]], first_ranks: list[int], amount: int) -> list[PairRate]:
        """Rates of this rank's pairs with ``amount`` bytes each way, between nodes' first ranks: ``first_ranks``."""
        found = []
        for pairs in rounds:
            # Nobody begins the next round while another pair is still busy.
            dist.all_reduce(torch.zeros(1, device=self.device))
            for pair in pairs:
                ranks = [first_ranks[node] for node in pair]
                if self._seat.rank in ranks:
                    peer = ranks[1] if self._seat.rank == ranks[0] else ranks[0]
                    found.append(PairRate(pair, self._rate(peer, amount)))
        return found

    def _rate(self, peer: int, amount: int) -> float:
        out = torch.ones(amount // 4, device=self.device)
        into = torch.empty_like(out)

        def both_ways() -> None:
            operations = [dist.P2POp(dist.isend, out, peer), dist.P2POp(dist.irecv, into, peer)]
            for work in dist.batch_isend_irecv(operations):
                work.wait()

        # The first time makes the connection.
        both_ways()
        return amount / self._best(both_ways)

    def _best(self, work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(_REPEATS):
            self._settle()
            began = time.perf_counter()
            work()
            self._settle()
            best = min(best, time.perf_counter() - began)
        return best

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        dist.destroy_process_group()
