"""The variance probe: weights and masked inputs fixed, replacements drawn again and again from p and from q."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from electra_scale.cluster.ranks import Ranks
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.data.noise import uniforms_at
from electra_scale.model.layout import Layout
from electra_scale.monitor.draw_variance import GRADIENT_PARTS, Redrawn
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens


def probe(
    module: PretrainModule,
    loader: Loader,
    samples: int,
    draws: int,
    mask_share: float,
    micro_batch: int,
    ranks: Ranks,
    advance: Callable[[], object] = lambda: None,
    poll: Callable[[], None] = lambda: None,
) -> Redrawn:
    """Redraw the replacements of ``samples`` rows of the loader ``draws`` times from p and from q.

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
            uniform = _uniforms(loader.seed, int(loader.order.places(position).sample[0]), draws, batch)
            layout = Layout.of(batch.segment)
            found = _measure(module, batch.to(ranks.device), layout, uniform.to(ranks.device), micro_batch)
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


def _uniforms(seed: int, sample: int, draws: int, batch: Batch) -> Tensor:
    """Numbers (K, M) for the masked positions of a batch of one row."""
    width, masked = batch.ids.shape[1], batch.masked.numpy()
    flat = (np.arange(draws)[:, None] * width + masked).reshape(-1)
    numbers = uniforms_at(seed, np.arange(draws), np.full(draws, sample, dtype=np.int64), width, "probe", flat)
    return torch.from_numpy(numbers.reshape(draws, len(masked)))


def _measure(
    module: PretrainModule, batch: Batch, layout: Layout, uniform: Tensor, micro_batch: int
) -> dict[str, Tensor]:
    """What :func:`_shapes` lists, of a batch of one row, given ``uniform`` (K, M); the layout is on the host."""
    corruptor = module.corruptor
    assert isinstance(corruptor, GeneratorCorruption)
    with torch.no_grad():
        masked = corruptor.masked_positions(module.electra, batch, layout.to(batch.ids.device))
    plain = ElectraSampler()
    row = _Row(batch, layout, masked)
    from_p = _redraw(module, corruptor, plain, row, uniform, micro_batch)
    from_q = from_p
    if not isinstance(corruptor.sampler, ElectraSampler):
        from_q = _redraw(module, corruptor, corruptor.sampler, row, uniform, micro_batch)
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
    parts = (module.electra.discriminator_head, layers[-1])
    spreads = [_GradientSpread(part) for part in parts]
    for numbers in uniform.split(micro_batch):
        copies = len(numbers)
        many = _copies(batch, numbers)
        drawn = propose(
            sampler,
            replace(
                masked,
                features=masked.features.repeat(copies, 1),
                hidden=masked.hidden.repeat(copies, 1),
                original=masked.original.repeat(copies),
                uniform=many.uniform,
            ),
        )
        corruption = corruptor.replaced(many, masked, drawn)
        layout = Layout.of(row.layout.segment.repeat(copies, 1)).to(many.ids.device)
        weight = corruption.token_weight.flatten()[many.masked]
        with torch.enable_grad(), _recorded([part for spread in spreads for part in spread.parts]) as calls:
            _, loss = task.detect(
                module.electra, module.electra.discriminator_hidden(corruption.ids, layout), corruption
            )
            # Up to the outputs of the last parts only, so no parameter's gradient is formed or touched.
            slopes = torch.autograd.grad(
                (loss * corruption.token_weight).sum(), [call.output for call in calls.values()]
            )
        for spread in spreads:
            spread.add(calls, dict(zip(calls, slopes, strict=True)))
        kept = drawn.tokens == masked.original.repeat(copies)
        columns.append((loss.detach().flatten()[many.masked], kept, weight, drawn.hardness))
    by_draw = [torch.cat(column).view(len(uniform), -1).T for column in zip(*columns, strict=True)]
    return _Redraws(
        loss=by_draw[0],
        kept=by_draw[1],
        weight=by_draw[2],
        hardness=by_draw[3],
        gradient=torch.stack([spread.variance() for spread in spreads]),
    )


def _copies(batch: Batch, uniform: Tensor) -> Batch:
    """The one row of a batch once for each row of ``uniform`` (C, M)."""
    copies, width = len(uniform), batch.ids.shape[1]
    begins = torch.arange(copies, device=batch.masked.device)[:, None] * width
    return Batch(
        batch.ids.repeat(copies, 1),
        batch.segment.repeat(copies, 1),
        (begins + batch.masked).flatten(),
        batch.shown_as_mask.repeat(copies),
        uniform.flatten(),
    )


@dataclass
class _Call:
    given: Tensor
    output: Tensor


@contextmanager
def _recorded(parts: list[nn.Module]) -> Iterator[dict[nn.Module, _Call]]:
    """Input and output of each part's one call inside the block."""
    calls: dict[nn.Module, _Call] = {}

    def record(part: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        calls[part] = _Call(given[0].detach(), output)

    handles = [part.register_forward_hook(record) for part in parts]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class _GradientSpread:
    """Variance over rows of the gradient of the rows' losses by a module's parameters: trace of the covariance."""

    def __init__(self, module: nn.Module) -> None:
        self.parts = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
        self._rows = 0
        self._squares: Tensor | float = 0.0
        self._sums: list[Tensor] | None = None

    def add(self, calls: dict[nn.Module, _Call], slopes: dict[nn.Module, Tensor]) -> None:
        """Rows of which ``slopes`` (C, S, ...) are the gradients by the parts' outputs."""
        gradients = [
            gradient for part in self.parts for gradient in _row_gradients(part, calls[part].given, slopes[part])
        ]
        self._rows += len(gradients[0])
        self._squares = self._squares + sum(gradient.square().sum(dtype=torch.float64) for gradient in gradients)
        sums = [gradient.sum(0) for gradient in gradients]
        self._sums = sums if self._sums is None else [a + b for a, b in zip(self._sums, sums, strict=True)]

    def variance(self) -> Tensor:
        assert self._sums is not None
        of_mean = sum(total.square().sum(dtype=torch.float64) for total in self._sums) / self._rows
        # Rounding may leave less than nothing where all rows are the same.
        return torch.clamp(torch.as_tensor(self._squares - of_mean), min=0.0) / (self._rows - 1)


def _row_gradients(part: nn.Module, given: Tensor, slope: Tensor) -> list[Tensor]:
    """Gradient (C, ...) of each row's loss by a part's own parameters, from its input and the slope at its output."""
    given, slope = given.float(), slope.float()
    if isinstance(part, nn.LayerNorm):
        return [(slope * layer_norm(given, part.normalized_shape, eps=part.eps)).sum(1), slope.sum(1)]
    assert isinstance(part, nn.Linear)
    return [slope.transpose(1, 2) @ given, slope.sum(1)]
