"""A step of training on many devices, by arithmetic: computing, what is exchanged, and what of it is not hidden.

See docs/performance.md, On paper.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from data_pipeline.errors import UserError
from electra_scale.plan.exchange import rounds_of
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.deepspeed_json import LARGEST_BUCKET

RANKS = tuple(2**power for power in range(11))

SMALL_COLLECTIVES = 4
"""All-reduces of a step that carry next to nothing: counts with votes, statistics, the norm, the sampling head."""

_BACKWARD = 2 / 3
"""Share of the computing in which gradients appear, and an exchange can run beside it."""


@dataclass(frozen=True)
class Network:
    """What moves between ranks: ``latency`` seconds a hop, bytes a second from a device in one direction.

    Up to ``per_node`` ranks share a node and its ``inside``. Between nodes each device has ``across``, and all devices
    of a node carry a collective together, as rings do that leave a node by each of its adapters: the rate of a whole
    node, ``per_node * across``, at most ``inside``. ``overlap`` is the share of the backward pass that an exchange of
    gradients can hide behind: 0 without ``overlap_comm``.
    """

    latency: float
    inside: float
    across: float
    per_node: int
    overlap: float = 0.0

    def bandwidth(self, ranks: int) -> float:
        return self.inside if ranks <= self.per_node else min(self.inside, self.per_node * self.across)

    def all_reduce(self, size: float, ranks: int) -> float:
        """Seconds of an all-reduce of ``size`` bytes: up and down a tree, each byte sent ``2 (R - 1) / R`` times."""
        if ranks == 1:
            return 0.0
        sent = 2 * size * (ranks - 1) / ranks
        return 2 * math.ceil(math.log2(ranks)) * self.latency + sent / self.bandwidth(ranks)

    def all_gather(self, size: float, ranks: int) -> float:
        """Seconds until each rank has all ``size`` bytes, of which each held its part: around a ring."""
        if ranks == 1:
            return 0.0
        return (ranks - 1) * self.latency + size * (ranks - 1) / ranks / self.bandwidth(ranks)


@dataclass(frozen=True)
class Work:
    """A model on one device: ``row_seconds`` for each row, and ``fixed_seconds`` for each micro-batch.

    ``parameters`` are exchanged with ``element`` bytes each, in buckets of ``bucket`` numbers; ``stage`` of ZeRO.
    """

    row_seconds: float
    parameters: int
    element: int
    stage: int = 2
    bucket: int = LARGEST_BUCKET
    fixed_seconds: float = 0.0

    def computing(self, micro: int, accumulation: int) -> float:
        """Seconds of a step without any exchange."""
        return accumulation * (micro * self.row_seconds + self.fixed_seconds)


@dataclass(frozen=True)
class Step:
    """A step of ``ranks``: seconds of computing, of exchanging, and how much of the latter nothing hides."""

    ranks: int
    micro: int
    accumulation: int
    computing: float
    exchange: float
    exposed: float
    efficiency: float

    @property
    def seconds(self) -> float:
        return self.computing + self.exposed


def bytes_of_a_step(work: Work, accumulation: int) -> dict[str, float]:
    """Bytes that are reduced and gathered in a step.

    DeepSpeed's ZeRO-2 reduces all gradients after each micro-batch, by an all-reduce of which each rank keeps its part;
    ZeRO-1 once. Both gather the parameters once.
    """
    once = float(work.parameters * work.element)
    return {"reduced": once * rounds_of(work.stage, accumulation), "gathered": once}


def step_of(work: Work, network: Network, ranks: int, micro: int, accumulation: int) -> Step:
    """The step of each of ``ranks`` with ``accumulation`` micro-batches of ``micro`` rows.

    Efficiency is the time that one device would take for the rows of a rank, without any exchange, over this.
    """
    computing = work.computing(micro, accumulation)
    moved = bytes_of_a_step(work, accumulation)
    buckets = math.ceil(work.parameters / work.bucket)
    rounds = rounds_of(work.stage, accumulation)
    bucket = moved["reduced"] / rounds / buckets
    reducing = rounds * buckets * network.all_reduce(bucket, ranks)
    gathering = network.all_gather(moved["gathered"], ranks)
    small = SMALL_COLLECTIVES * network.all_reduce(8.0, ranks)
    # An exchange can hide behind the backward passes that it belongs to only: one of ZeRO-1 behind the last.
    beside = _BACKWARD * computing * (rounds / accumulation)
    hidden = min(reducing, network.overlap * beside)
    exposed = reducing - hidden + gathering + small
    return Step(
        ranks,
        micro,
        accumulation,
        computing,
        reducing + gathering + small,
        exposed,
        computing / (computing + exposed),
    )


def scaled(work: Work, network: Network, global_batch: int, most: int) -> list[tuple[int, Step | None, Step]]:
    """For each number of ranks: the step of the recipe's global batch, None where they cannot share it, and the step in
    which each rank has the most rows that a device takes, so that the batch grows with the ranks."""
    alone = work.computing(*_split(global_batch, 1, most))
    found: list[tuple[int, Step | None, Step]] = []
    for ranks in RANKS:
        try:
            step = step_of(work, network, ranks, *_split(global_batch, ranks, most))
            # Of the whole batch on one device: fewer rows a micro-batch cost the fixed part more often.
            shared = Step(**(asdict(step) | {"efficiency": alone / ranks / step.seconds}))
        except UserError:
            shared = None
        found.append((ranks, shared, step_of(work, network, ranks, most, 1)))
    return found


def _split(global_batch: int, ranks: int, most: int) -> tuple[int, int]:
    return batch_split(global_batch, ranks, most)
