"""The step time of each rank, and a sentence when one rank slows all others down."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SLOW = 1.5
"""Times the median of the other ranks. Steps of equal work on equal machines differ by a tenth or so."""

IN_A_ROW = 5
"""Logged steps: a single slow one means nothing."""

LEAST_SECONDS = 0.02
"""Differences below this are ignored: a busy kernel makes them by itself."""

EACH = 64
"""Most ranks that have a tag each."""


def rank_metrics(seconds: Sequence[float]) -> dict[str, float]:
    """Tags for the seconds of each rank: one a rank; of many the least, the median, the largest and its rank."""
    if len(seconds) <= EACH:
        return {f"speed/rank_seconds/{rank}": value for rank, value in enumerate(seconds)}
    largest = max(seconds)
    return {
        "speed/rank_seconds/min": min(seconds),
        "speed/rank_seconds/median": statistics.median(seconds),
        "speed/rank_seconds/max": largest,
        "speed/rank_seconds/slowest_rank": float(list(seconds).index(largest)),
    }


class SlowRanks:
    """Watches for ranks that stay slow; ``hosts`` by rank."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = hosts
        self._slow = [0] * len(hosts)

    def see(self, step: int, seconds: Sequence[float]) -> list[str]:
        """Sentences for a logged step's seconds by rank; one for each time that a rank becomes slow."""
        found: list[str] = []
        if len(seconds) < 2:
            return found
        ordered = sorted(seconds)
        for rank, own in enumerate(seconds):
            usual = _median_without(ordered, own)
            slow = own > SLOW * usual and own - usual > LEAST_SECONDS
            self._slow[rank] = self._slow[rank] + 1 if slow else 0
            if self._slow[rank] == IN_A_ROW:
                found.append(
                    f"alarm at step {step}: rank {rank} on {self.hosts[rank]} is slow: it needs {own:.3g} s of its own "
                    f"for a step, the others {usual:.3g} s, and all wait for it. Look at that host (other processes, "
                    "clocks, temperature, disk), or leave it out."
                )
        return found


def _median_without(ordered: list[float], value: float) -> float:
    """Median of sorted values without one of them."""
    place = ordered.index(value)
    rest = len(ordered) - 1

    def at(index: int) -> float:
        return ordered[index + (index >= place)]

    return (at((rest - 1) // 2) + at(rest // 2)) / 2
