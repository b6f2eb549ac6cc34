"""What a sampler that knew the discriminator could do: true losses of candidates, and redraws from the q they give."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from electra_scale.corruption.corruption import Clock, Corruption
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.sampler import Sampler
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.samplers.given import GivenHardnessSampler
from electra_scale.corruption.vocabulary.distributions import distributions
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.data.noise import uniforms_at
from electra_scale.model.attention.layout import Layout
from electra_scale.monitor.oracle_figures import Enumerated, OracleRow, Redraws
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens
from electra_scale.train.heldout.gradient_spread import GradientSpread, discriminator_parts, recorded, slopes_of
from electra_scale.train.heldout.redrawing import OneRow, uniforms_of

_FLOOR = 1e-3
"""Least hardness that an oracle gives a token, so that q is above 0 where p is; the same as the sampling head's."""


@dataclass(frozen=True)
class OracleSettings:
    """What is asked of each row.

    ``candidates``: the likeliest tokens of a position that are tried besides the original. ``draws`` from each q, in
    ``groups`` of equal size, whose figures are independent. ``mixture``: of the oracles' q with p. ``micro_batch`` rows
    go through the discriminator at once. ``clock``: the time that the run's own sampler is asked about.
    """

    candidates: int
    draws: int
    groups: int
    mixture: float
    micro_batch: int
    clock: Clock


def measure_row(
    module: PretrainModule, loader: Loader, row: int, mask_share: float, settings: OracleSettings, device: torch.device
) -> OracleRow:
    """Enumerate the candidates of one row of the loader, and draw all of its replacements again from each q.

    The numbers of a draw are those of the variance probe, keyed by (the loader's seed, draw, sample, position), and the
    same for each q. Weights are w = p/q in full, whatever power the recipe trains with, since only those estimate one
    expectation for each q. The module must be in eval mode; weights, gradients and random states stay as they are.
    """
    corruptor, task = module.corruptor, module.task
    assert isinstance(corruptor, GeneratorCorruption)
    assert isinstance(task, ReplacedTokens)
    position = np.array([row], dtype=np.int64)
    batch = loader.rows(position, mask_share)
    sample = int(loader.order.places(position).sample[0])
    numbers = uniforms_of(loader.seed, sample, settings.draws, batch).to(device)
    others = _uniforms_of_others(loader.seed, sample, batch).to(device)
    segment, batch = batch.segment, batch.to(device)
    with torch.no_grad():
        masked = corruptor.masked_positions(module.electra, batch, Layout.of(segment).to(device))
    samplers: dict[str, Sampler] = {"p": ElectraSampler()}
    own = copy.copy(corruptor.sampler_at(settings.clock))
    if not isinstance(own, ElectraSampler):
        # A q without originals has another expectation, whatever its weights.
        own.allow_original = True
        samplers["head" if own.learns else "own"] = own
    study = _Row(module.electra, task, batch, segment, masked, settings)
    enumerated, oracles = study.enumerate(others, samplers)
    samplers |= oracles
    redraws = {name: study.redraw(sampler, numbers) for name, sampler in samplers.items()}
    return OracleRow(row, len(masked.original), int((segment >= 0).sum()), enumerated, redraws)


def _uniforms_of_others(seed: int, sample: int, batch: Batch) -> Tensor:
    """Numbers (M,) of the replacements that stay while a position's candidates are tried."""
    width, masked = batch.ids.shape[1], batch.masked.numpy()
    zero = np.zeros(1, dtype=np.int64)
    return torch.from_numpy(uniforms_at(seed, zero, zero + sample, width, "oracle", masked))


@dataclass(frozen=True)
class _Row(OneRow):
    settings: OracleSettings

    @torch.no_grad()
    def enumerate(self, others: Tensor, samplers: Mapping[str, Sampler]) -> tuple[Enumerated, dict[str, Sampler]]:
        """Variances over the candidates given the other replacements, and samplers that know the candidates' losses."""
        p = self._q(samplers["p"])
        original = self.masked.original[:, None]
        count = min(self.settings.candidates + 1, p.shape[1])
        tokens = p.scatter(1, original, torch.inf).topk(count, -1).indices
        loss = self._losses(tokens, others)
        # Of the loss by the logit: sigma where the token is the original, sigma - 1 where it is not.
        slope = torch.where(tokens == original, 1.0, -1.0) * -torch.expm1(-loss)
        chance = p.gather(1, tokens)
        oracles: dict[str, Sampler] = {
            name: self._oracle(tokens, chance, hardness)
            for name, hardness in (("oracle_loss", loss), ("oracle_gradient", slope.abs()))
        }
        q = {name: self._q(sampler).gather(1, tokens) for name, sampler in {**samplers, **oracles}.items()}
        best = _variances(chance, chance * slope.abs(), slope)
        return (
            Enumerated(
                covered=float(chance.sum()),
                loss={name: float(_variances(chance, one, loss).sum()) for name, one in q.items()},
                gradient={name: float(_variances(chance, one, slope).sum()) for name, one in q.items()},
                least_gradient=float(best.sum()),
            ),
            oracles,
        )

    def _oracle(self, tokens: Tensor, chance: Tensor, hardness: Tensor) -> GivenHardnessSampler:
        """Tokens that were not tried count as hard as those that were, on average, the original left out."""
        known = hardness.clamp(min=_FLOOR)
        other = chance * (tokens != self.masked.original[:, None])
        rest = (other * known).sum(-1) / other.sum(-1).clamp(min=1e-300)
        return GivenHardnessSampler(tokens, known, rest.clamp(min=_FLOOR), self.settings.mixture)

    def _q(self, sampler: Sampler) -> Tensor:
        """(M, V) float64."""
        return torch.cat([block.q for block in distributions(self.masked, sampler)])

    def _losses(self, tokens: Tensor, others: Tensor) -> Tensor:
        """The discriminator's loss (M, K) float64 at each position with each of its ``tokens`` (M, K) in place."""
        batch, electra = self.batch, self.electra
        drawn = propose(ElectraSampler(), replace(self.masked, uniform=others))
        row = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens)
        place = batch.masked.repeat_interleave(tokens.shape[1])
        found = []
        for where, token in zip(
            place.split(self.settings.micro_batch), tokens.flatten().split(self.settings.micro_batch), strict=True
        ):
            ids = row.repeat(len(where), 1).scatter_(1, where[:, None], token[:, None])
            layout = Layout.of(self.segment.repeat(len(where), 1)).to(ids.device)
            corruption = Corruption(ids, ids != batch.ids, torch.ones_like(ids, dtype=torch.float32), where)
            _, loss = self.task.detect(electra, electra.discriminator_hidden(ids, layout), corruption)
            found.append(loss.gather(1, where[:, None])[:, 0])
        return torch.cat(found).view(tokens.shape).double()

    def redraw(self, sampler: Sampler, numbers: Tensor) -> Redraws:
        """Draw the row's replacements once for each row of ``numbers`` (D, M), and see how sums and gradients vary."""
        parts = discriminator_parts(self.electra)
        sums: list[list[float]] = []
        gradient: dict[str, list[list[float]]] = {name: [] for name in parts}
        weights: list[Tensor] = []
        sums_of_groups: list[list[float]] = []
        for group in numbers.chunk(self.settings.groups):
            spreads = {name: GradientSpread(part) for name, part in parts.items()}
            of_draws = []
            for uniform in group.split(self.settings.micro_batch):
                losses, weight = self._add(sampler, uniform, spreads)
                of_draws.append(losses)
                weights.append(weight)
            by_loss = torch.cat(of_draws, 1).double()
            by_loss = torch.cat([by_loss, by_loss.sum(0, keepdim=True)])
            sums_of_groups.append(by_loss.var(1).tolist())
            sums.append(by_loss.mean(1).tolist())
            for name, spread in spreads.items():
                gradient[name].append(spread.variance().tolist())
        weight = torch.cat(weights).double()
        return Redraws(
            mean=np.mean(sums, axis=0).tolist(),
            sum=sums_of_groups,
            gradient=gradient,
            weight=float(weight.sum()),
            weight_squared=float(weight.square().sum()),
            weight_max=float(weight.max()) if len(weight) else 0.0,
        )

    def _add(self, sampler: Sampler, uniform: Tensor, spreads: Mapping[str, GradientSpread]) -> tuple[Tensor, Tensor]:
        """Add draws (C, M) to the spreads; the sums (2, C) of w l at masked and of l at other tokens, and w."""
        with torch.enable_grad(), recorded(part for spread in spreads.values() for part in spread.parts) as calls:
            loss, at_masked, at_others, w = self.losses(sampler, uniform)
            by_draw = [(loss * weight).sum(1) for weight in (at_masked, at_others)]
            slopes = slopes_of(calls, [one.sum() for one in by_draw])
        for spread in spreads.values():
            spread.add(calls, slopes)
        return torch.stack(by_draw).detach(), w


def _variances(p: Tensor, q: Tensor, value: Tensor) -> Tensor:
    """Var_q[w value] (M,) among the candidates (M, K) alone: p and q are normalised over them, and w = p/q.

    With q proportional to p |value| it is (E_p|value|)^2 - (E_p value)^2, the least that there is (docs/method.md, 13).
    """
    p, q = (part / part.sum(-1, keepdim=True).clamp(min=1e-300) for part in (p, q))
    squares = torch.where(value == 0, 0.0, (p * value).square() / q.clamp(min=1e-300))
    return (squares.sum(-1) - (p * value).sum(-1).square()).clamp(min=0.0)
