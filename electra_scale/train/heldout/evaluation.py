"""Held-out text: the same masks and uniform numbers each time, replacements from the generator itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electra_scale.corruption.corruption import Clock, Statistic
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.model.attention.layout import Layout
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.sums import Flattener, Lists, combine, joined, lists_of, whole
from electra_scale.train.engine.world import World


@torch.no_grad()
def evaluate(
    module: PretrainModule,
    loader: Loader,
    samples: int,
    mask_share: float,
    micro_batch: int,
    world: World,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Metrics over the first ``samples`` rows of the loader's order; every rank must call it, all get the same values.

    Rows of several sources give each metric for each of them too, as ``eval/SOURCE/...``.

    ``poll`` is called before each micro-batch, as often on every rank, and may raise.

    Draws come from p whatever sampler trains, so that runs with different samplers are compared on the same task.
    """
    positions = np.arange(min(samples, loader.samples))
    labels = np.array(loader.sources(positions))
    # One source after the other, so that a micro-batch is of one source.
    grouped = np.argsort(labels, kind="stable")
    positions, labels = positions[grouped], labels[grouped]
    names, number = np.unique(labels, return_inverse=True)
    pieces = [_pieces(number, rank, world.size, micro_batch) for rank in range(world.size)]
    own = pieces[world.rank]
    clock = Clock(0, 0, module.phase, 0)
    was_training = module.training
    module.eval()

    def measure(piece: slice) -> list[Statistic]:
        batch = loader.rows(positions[piece], mask_share)
        layout = Layout.of(batch.segment).to(world.device)
        return _statistics(module, batch.to(world.device), layout, clock)

    totals: list[Tensor | None] = [None] * len(names)
    lists: list[list[Lists]] = [[] for _ in names]
    flattener: Flattener | None = None
    maximum: Tensor | None = None
    try:
        for turn in range(max(len(one) for one in pieces)):
            poll()
            if turn >= len(own):
                continue
            statistics = measure(own[turn])
            if flattener is None:
                flattener = Flattener(statistics)
                of_host = flattener.maximum_mask()
                maximum = None if of_host is None else of_host.to(world.device)
            vector, source = flattener.pack(statistics), number[own[turn].start]
            totals[source] = combine(totals[source], vector, maximum)
            lists[source].append(lists_of(statistics))
        # A rank without rows of its own still takes part, and needs the names.
        flattener = flattener or Flattener(measure(slice(0, 1)))
    finally:
        module.train(was_training)
    vectors = [None if total is None else total.cpu() for total in totals]
    ranks = world.gather((vectors, [joined(parts) for parts in lists]))
    maxima = flattener.maximum_mask()
    by_source = [_added([of_rank[0][index] for of_rank in ranks], maxima) for index in range(len(names))]
    of_source = [joined([of_rank[1][index] for of_rank in ranks]) for index in range(len(names))]
    found = _metrics(module, flattener, _added(by_source, maxima), joined(of_source))
    if len(names) == 1:
        return found
    for name, vector, parts in zip(names, by_source, of_source, strict=True):
        own_metrics = _metrics(module, flattener, vector, parts)
        found |= {key.replace("eval/", f"eval/{name}/", 1): value for key, value in own_metrics.items()}
    return found


def _added(vectors: Sequence[Tensor | None], maxima: Tensor | None) -> Tensor:
    """Packed statistics (N,) of all parts together; each part of which some rank has rows has some."""
    total: Tensor | None = None
    for vector in vectors:
        if vector is not None:
            total = combine(total, vector, maxima)
    assert total is not None
    return total


def _pieces(source: NDArray[np.int64], rank: int, ranks: int, most: int) -> list[slice]:
    """A rank's share of the rows, whose ``source`` (n,) ascends, in runs of one source and of at most ``most`` rows."""
    share = -(-len(source) // ranks)
    first, last = min(rank * share, len(source)), min((rank + 1) * share, len(source))
    found = []
    while first < last:
        end = min(first + most, last, int(np.searchsorted(source, source[first], side="right")))
        found.append(slice(first, end))
        first = end
    return found


def _metrics(module: PretrainModule, flattener: Flattener, vector: Tensor, lists: Lists) -> dict[str, float]:
    sums = {**flattener.unpack(vector.numpy()), **whole(lists)}
    metrics = module.corruptor.heldout_metrics(sums)
    return metrics | module.task.heldout_metrics(sums) if module.phase == "joint" else metrics


def _statistics(module: PretrainModule, batch: Batch, layout: Layout, clock: Clock) -> list[Statistic]:
    corruption = module.corruptor.heldout(module.electra, batch, layout, clock)
    found = [*corruption.statistics, Statistic("masked", batch.masked.new_tensor(len(batch.masked)))]
    found.append(Statistic("tokens", (batch.segment >= 0).sum()))
    if module.phase == "joint":
        hidden = module.electra.discriminator_hidden(corruption.ids, layout, module.task.depths)
        found += module.task.heldout(module.electra, hidden, corruption, batch)
    return found
