"""Held-out text: the same masks and uniform numbers each time, replacements from the generator itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from electra_scale.corruption.corruption import Clock, Statistic
from electra_scale.data.loader import Batch, Loader
from electra_scale.model.layout import Layout
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.sums import Flattener, combine
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
    """Metrics over the first ``samples`` held-out rows; every rank must call it, all get the same values.

    ``poll`` is called before each micro-batch, as often on every rank, and may raise.

    Draws come from p whatever sampler trains, so that runs with different samplers are compared on the same task.
    """
    samples = min(samples, loader.samples)
    share = -(-samples // world.size)
    first, last = world.rank * share, min((world.rank + 1) * share, samples)
    clock = Clock(0, 0, module.phase, 0)
    was_training = module.training
    module.eval()
    total: Tensor | None = None
    flattener: Flattener | None = None
    # A rank without rows of its own still takes part, with one row that counts nothing.
    try:
        for begin in range(first, first + share, micro_batch):
            poll()
            if begin > first and begin >= last:
                continue
            count = min(micro_batch, last - begin)
            batch = loader.batch(0, begin if count > 0 else 0, max(count, 1), mask_share)
            layout = Layout.of(batch.segment).to(world.device)
            statistics = _statistics(module, batch.to(world.device), layout, clock)
            flattener = flattener or Flattener(statistics)
            vector = flattener.pack(statistics)
            if count <= 0:
                vector = torch.zeros_like(vector)
            total = combine(total, vector, flattener.maximum_mask(vector.device))
    finally:
        module.train(was_training)
    assert flattener is not None
    assert total is not None
    sums = flattener.unpack(world.sum(total).cpu().numpy())
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
