"""Held-out text: the same masks and uniform numbers each time, replacements from the generator itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import vocabulary_pass
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.monitor.metrics import auc
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.sums import Flattener, combine, detection_statistics, generator_statistics
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
            batch = loader.batch(0, begin if count > 0 else 0, max(count, 1), mask_share).to(world.device)
            statistics = _statistics(module, batch)
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
    masked, tokens = float(sums["masked"][0]), float(sums["tokens"][0])
    metrics = {
        "eval/generator_cross_entropy": float(sums["generator_cross_entropy"][0]) / masked,
        "eval/generator_accuracy": float(sums["generator_hits"][0]) / masked,
    }
    if module.phase == "joint":
        metrics["eval/discriminator_loss"] = float(sums["discriminator_loss"][0]) / tokens
        metrics["eval/auc"] = auc(sums["histogram_replaced"], sums["histogram_original"])
    return metrics


def _statistics(module: PretrainModule, batch: Batch) -> dict[str, Tensor]:
    masked = module.masked_positions(batch)
    found = vocabulary_pass(masked, ElectraSampler() if module.phase == "joint" else None, entropy=True)
    real = batch.segment >= 0
    sums = {"masked": batch.masked.new_tensor(len(batch.masked)), "tokens": real.sum()}
    assert found.entropy is not None
    sums |= generator_statistics(found.log_probability, found.hits, found.entropy)
    if found.drawn is not None:
        ids = batch.ids.flatten().index_copy(0, batch.masked, found.drawn.tokens).view_as(batch.ids)
        logits, loss = module.discriminate(ids, batch)
        sums["discriminator_loss"] = (loss * real).sum()
        sums |= detection_statistics(logits, ids != batch.ids, module.ordinary(batch))
    return sums
