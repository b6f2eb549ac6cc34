"""L_D of rows at fixed weights, with other masks and with other draws: what its variance consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.data.loader import Loader
from electra_scale.model.attention.layout import Layout
from electra_scale.monitor.draw_variance import Floats
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens
from electra_scale.train.heldout.redrawing import OneRow, uniforms_of


@dataclass(frozen=True)
class MaskedAnew:
    """Sums of w l over all tokens of N rows, under M masks each, with D draws from p and from q under each mask.

    ``sum_p``, ``sum_q`` (N, M, D); ``tokens`` (N,) those that are no padding.
    """

    sum_p: Floats
    sum_q: Floats
    tokens: Floats


@torch.no_grad()
def mask_anew(
    module: PretrainModule,
    loader: Loader,
    rows: int,
    masks: int,
    draws: int,
    mask_share: float,
    micro_batch: int,
    clock: Clock,
    device: torch.device,
    advance: Callable[[], object] = lambda: None,
) -> MaskedAnew:
    """Sums of the first ``rows`` rows of the loader, with the masks of its epochs 0 to ``masks`` - 1.

    The loader must have the same rows in each epoch, as those for measuring have. Draws are keyed by (the loader's
    seed, mask and draw, sample, position) and use the same numbers for p and for q, whose weights are those that
    training uses. The module must be in eval mode.
    """
    corruptor, task = module.corruptor, module.task
    assert isinstance(corruptor, GeneratorCorruption)
    assert isinstance(task, ReplacedTokens)
    samplers = (ElectraSampler(), corruptor.sampler_at(clock))
    sums = np.zeros((len(samplers), rows, masks, draws))
    tokens = np.zeros(rows)
    for row in range(rows):
        for mask in range(masks):
            position = np.array([row + mask * loader.samples], dtype=np.int64)
            batch = loader.rows(position, mask_share)
            sample = int(loader.order.places(position).sample[0])
            numbers = uniforms_of(loader.seed, sample, draws, batch, first=mask * draws).to(device)
            segment, batch = batch.segment, batch.to(device)
            tokens[row] = int((segment >= 0).sum())
            masked = corruptor.masked_positions(module.electra, batch, Layout.of(segment).to(device))

            one = OneRow(module.electra, task, batch, segment, masked)
            for which, sampler in enumerate(samplers):
                drawn = [one.losses(sampler, uniform) for uniform in numbers.split(micro_batch)]
                found = [(loss * (at_masked + at_others)).sum(1) for loss, at_masked, at_others, _ in drawn]
                sums[which, row, mask] = torch.cat(found).double().cpu().numpy()
        advance()
    return MaskedAnew(sums[0], sums[1], tokens)
