"""The variance probe: weights and masked inputs fixed, replacements drawn again and again from p and from q."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from electra_scale.cluster.ranks import Ranks
from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.model.attention.layout import Layout
from electra_scale.monitor.draw_variance import GRADIENT_PARTS, Redrawn
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens
from electra_scale.train.heldout.gradient_spread import GradientSpread, graph_from, parts_of, recorded, slopes_of
from electra_scale.train.heldout.redrawing import copies_of, masked_copies, uniforms_of


def probe(
    module: PretrainModule,
    loader: Loader,
    samples: int,
    draws: int,
    mask_share: float,
    micro_batch: int,
    ranks: Ranks,
    clock: Clock,
    advance: Callable[[], object] = lambda: None,
    poll: Callable[[], None] = lambda: None,
) -> Redrawn:
    """Redraw the replacements of ``samples`` rows of the loader ``draws`` times from p, and from q at ``clock``.

    Both use the same uniform numbers, keyed by (the loader's seed, draw, sample, position). Every rank must call it and
    takes its share of the samples; all get the same result, whatever their number. Weights, gradients, mode and random
    states are left as they are. ``micro_batch`` rows go through the discriminator at once; ``advance`` is called after
    each sample of this rank; ``poll`` before each, as often on every rank, and may raise.
    """
    samples = min(samples, loader.samples)
    share = -(-samples // ranks.size)
    first, last = min(ranks.rank * share, samples), min((ranks.rank + 1) * share, samples)
    # A row has at most so many masked positions (electra_scale/data/masking.py); where it has fewer the rest is zeros.
    most = max(1, round(mask_share * loader.config.sequence_length))
    table = {
        name: torch.zeros((samples, *shape), dtype=torch.float64, device=ranks.device)
        for name, shape in _shapes(most, draws).items()
    }
    was_training = module.training
    module.eval()
    try:
        for row in range(first, first + share):
            poll()
            if row >= last:
                continue
            position = np.array([row], dtype=np.int64)
            batch = loader.rows(position, mask_share)
            uniform = uniforms_of(loader.seed, int(loader.order.places(position).sample[0]), draws, batch)
            layout = Layout.of(batch.segment)
            found = _measure(module, batch.to(ranks.device), layout, uniform.to(ranks.device), micro_batch, clock)
            for name, value in found.items():
                table[name][row][: len(value)] = value
            advance()
    finally:
        module.train(was_training)
    return _redrawn({name: ranks.sum(value).cpu().numpy() for name, value in table.items()})


def _shapes(most: int, draws: int) -> dict[str, tuple[int, ...]]:
    """What is measured of a sample with ``most`` masked positions."""
    by_draw = ("loss_p", "loss_q", "kept_p", "kept_q", "weight", "hardness")
    return {
        **dict.fromkeys(by_draw, (most, draws)),
        **dict.fromkeys(("gradient_p", "gradient_q"), (len(GRADIENT_PARTS),)),
        **dict.fromkeys(("masked", "original"), (most,)),
        "tokens": (1,),
    }


def _redrawn(table: dict[str, NDArray[np.float64]]) -> Redrawn:
    masked = table["masked"] > 0
    return Redrawn(
        sample=np.nonzero(masked)[0],
        original=table["original"][masked].astype(np.int64),
        loss_p=table["loss_p"][masked],
        loss_q=table["loss_q"][masked],
        kept_p=table["kept_p"][masked] > 0,
        kept_q=table["kept_q"][masked] > 0,
        weight=table["weight"][masked],
        hardness=table["hardness"][masked],
        gradient_p=table["gradient_p"],
        gradient_q=table["gradient_q"],
        tokens=int(table["tokens"].sum()),
    )


def _measure(
    module: PretrainModule, batch: Batch, layout: Layout, uniform: Tensor, micro_batch: int, clock: Clock
) -> dict[str, Tensor]:
    """What :func:`_shapes` lists, of a batch of one row, given ``uniform`` (K, M); the layout is on the host."""
    corruptor = module.corruptor
    assert isinstance(corruptor, GeneratorCorruption)
    with torch.no_grad():
        masked = corruptor.masked_positions(module.electra, batch, layout.to(batch.ids.device))
    plain, sampler = ElectraSampler(), corruptor.sampler_at(clock)
    row = _Row(batch, layout, masked)
    from_p = _redraw(module, corruptor, plain, row, uniform, micro_batch)
    from_q = from_p
    if not isinstance(sampler, ElectraSampler) or not sampler.allow_original:
        from_q = _redraw(module, corruptor, sampler, row, uniform, micro_batch)
    return {
        "loss_p": from_p.loss,
        "loss_q": from_q.loss,
        "kept_p": from_p.kept,
        "kept_q": from_q.kept,
        "weight": from_q.weight,
        "hardness": from_q.hardness,
        "gradient_p": from_p.gradient,
        "gradient_q": from_q.gradient,
        "masked": torch.ones_like(masked.original),
        "original": masked.original,
        "tokens": (batch.segment >= 0).sum()[None],
    }


@dataclass
class _Row:
    """A batch of one row, its layout on the host, and what the generator says about it."""

    batch: Batch
    layout: Layout
    masked: Masked


@dataclass
class _Redraws:
    """Of one sample: (M, K) each, and the gradient's variance (parts,)."""

    loss: Tensor
    kept: Tensor
    weight: Tensor
    hardness: Tensor
    gradient: Tensor


def _redraw(
    module: PretrainModule,
    corruptor: GeneratorCorruption,
    sampler: Sampler,
    row: _Row,
    uniform: Tensor,
    micro_batch: int,
) -> _Redraws:
    batch, masked, task = row.batch, row.masked, module.task
    assert isinstance(task, ReplacedTokens)
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    layers = module.electra.discriminator.layers
    assert isinstance(layers, nn.ModuleList)
    spreads = [GradientSpread(parts_of(part)) for part in (module.electra.discriminator_head, layers[-1])]
    for numbers in uniform.split(micro_batch):
        copies = len(numbers)
        many = copies_of(batch, numbers)
        drawn = propose(sampler, masked_copies(masked, copies, many.uniform))
        corruption = corruptor.replaced(many, masked, drawn)
        # Gradients are taken apart by rows.
        layout = Layout.of(row.layout.segment.repeat(copies, 1)).to(many.ids.device).in_rows()
        weight = corruption.token_weight.flatten()[many.masked]
        with recorded(part for spread in spreads for part in spread.parts) as calls, graph_from(layers[-1]):
            _, loss = task.detect(
                module.electra, module.electra.discriminator_hidden(corruption.ids, layout), corruption
            )
            slopes = slopes_of(calls, [(loss * corruption.token_weight).sum()])
        for spread in spreads:
            spread.add(calls, slopes)
        kept = drawn.tokens == masked.original.repeat(copies)
        columns.append((loss.detach().flatten()[many.masked], kept, weight, drawn.hardness))
    by_draw = [torch.cat(column).view(len(uniform), -1).T for column in zip(*columns, strict=True)]
    return _Redraws(
        loss=by_draw[0],
        kept=by_draw[1],
        weight=by_draw[2],
        hardness=by_draw[3],
        gradient=torch.cat([spread.variance() for spread in spreads]),
    )
