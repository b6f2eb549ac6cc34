"""Corruption by a generator that learns masked prediction: replacements are drawn from it by a sampler."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from electra_scale.corruption.ahead import Ahead
from electra_scale.corruption.corruption import (
    Clock,
    Corruption,
    CorruptionCost,
    Corruptor,
    LossTerm,
    Statistic,
    Sums,
    statistics_of,
)
from electra_scale.corruption.sampler import Distributions, Draw, Masked, Sampler
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.cost import GeneratorCost
from electra_scale.corruption.samplers.fixed import ElectraSampler
from electra_scale.corruption.statistics import (
    false_negative_statistics,
    generator_metrics,
    generator_statistics,
    hardness_statistics,
    sampler_metrics,
    staleness_statistics,
)
from electra_scale.corruption.vocabulary.distributions import distributions
from electra_scale.corruption.vocabulary.tiles import scores_of
from electra_scale.corruption.vocabulary.vocabulary_pass import propose, vocabulary_pass
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.optimizer import PartSettings
from electra_scale.recipe.phases import Phase


class GeneratorCorruption(Corruptor):
    """The generator's loss, a draw from the sampler's distribution at each masked position, and its weight."""

    settings: GeneratorSettings

    def __init__(self, settings: GeneratorSettings, model: ModelConfig, special: SpecialTokens, seed: int) -> None:
        super().__init__(settings, model, special, seed)
        self.sampler = build_sampler(settings, model, seed)

    def modules(self) -> dict[str, nn.Module]:
        return {"sampler": self.sampler}

    def training(self, name: str) -> PartSettings:
        head = self.settings.head
        return PartSettings(rate=head.learning_rate_scale, clip=head.clip, replicated=True)

    def mixture_at(self, clock: Clock) -> float:
        """How much of the generator's own distribution draws are mixed with; all in the first steps, if so set."""
        return 1.0 if clock.phase_step < self.settings.start_after else self.sampler.mixture

    def sampler_at(self, clock: Clock) -> Sampler:
        """The sampler as it draws at that time of the joint phase."""
        return self.sampler.at(clock.progress)

    def corrupt(
        self,
        networks: Electra,
        batch: Batch,
        layout: Layout,
        clock: Clock,
        detailed: bool = False,
        ahead: Ahead | None = None,
    ) -> Corruption:
        masked = self.masked_positions(networks, batch, layout)
        sampler = self.sampler_at(clock) if clock.phase == "joint" else None
        found = vocabulary_pass(
            masked, sampler, self.settings.focal_gamma, entropy=detailed, mixture=self.mixture_at(clock)
        )
        statistics: dict[str, Tensor] = {}
        if found.entropy is not None and found.hits is not None:
            statistics |= generator_statistics(found.log_probability, found.hits, found.entropy)
        drawn = found.drawn
        if drawn is not None:
            if ahead is not None:
                drawn = ahead.weighted_for(masked, drawn)
            if detailed:
                statistics |= staleness_statistics(drawn.log_p, None if ahead is None else ahead.log_p)
        return replace(
            self.replaced(batch, masked, drawn),
            terms=[LossTerm("generator", found.loss, "masked")],
            statistics=statistics_of(statistics),
        )

    def heldout(self, networks: Electra, batch: Batch, layout: Layout, clock: Clock) -> Corruption:
        """Draws come from the generator itself, whatever sampler trains."""
        masked = self.masked_positions(networks, batch, layout)
        found = vocabulary_pass(masked, ElectraSampler() if clock.phase == "joint" else None, entropy=True)
        assert found.entropy is not None
        assert found.hits is not None
        statistics = generator_statistics(found.log_probability, found.hits, found.entropy)
        corruption = self.replaced(batch, masked, found.drawn)
        return replace(corruption, statistics=statistics_of(statistics))

    def replaced(self, batch: Batch, masked: Masked, drawn: Draw | None) -> Corruption:
        """The batch with its draws in place; without draws, as it is."""
        real = batch.segment >= 0
        ids, token_weight = batch.ids, real.float()
        if drawn is not None:
            weight = self.weight(drawn)
            ids = batch.ids.flatten().index_copy(0, batch.masked, drawn.tokens).view_as(batch.ids)
            token_weight = real.to(weight.dtype).flatten().index_copy(0, batch.masked, weight).view_as(batch.ids)
        return Corruption(ids, ids != batch.ids, token_weight, batch.masked, (masked, drawn))

    def look_ahead(self, networks: Electra, batch: Batch, layout: Layout, clock: Clock) -> Ahead:
        with torch.no_grad():
            masked = self.masked_positions(networks, batch, layout)
            drawn = propose(self.sampler_at(clock), masked, mixture=self.mixture_at(clock))
            return Ahead(drawn.tokens, drawn.log_p, drawn.log_p - drawn.weight.log(), drawn.hardness)

    def distributions(self, corruption: Corruption, clock: Clock) -> Iterator[Distributions]:
        masked, _ = corruption.proposal
        return distributions(masked, self.sampler_at(clock), self.mixture_at(clock))

    def feedback(self, corruption: Corruption, token_loss: Tensor) -> list[LossTerm]:
        masked, drawn = corruption.proposal
        loss = torch.zeros((), dtype=token_loss.dtype, device=token_loss.device)
        if self.sampler.learns:
            with torch.autocast(token_loss.device.type, enabled=False):
                loss = self.sampler.loss(masked, drawn, token_loss).sum()
        return [LossTerm("sampler", loss, "masked", self.settings.sampler_weight)]

    def feedback_statistics(self, corruption: Corruption, token_loss: Tensor) -> list[Statistic]:
        masked, drawn = corruption.proposal
        with torch.no_grad():
            drawn_score, original_score = (
                scores_of(masked.features, masked.word_embeddings, masked.bias, tokens)
                for tokens in (drawn.tokens, masked.original)
            )
        found = hardness_statistics(drawn.hardness, token_loss)
        found |= false_negative_statistics(drawn_score > original_score, drawn.tokens != masked.original, token_loss)
        return statistics_of(found)

    def metrics(self, sums: Sums, phase: Phase) -> dict[str, float]:
        found = generator_metrics(sums)
        return found | sampler_metrics(sums) if phase == "joint" else found

    def heldout_metrics(self, sums: Sums) -> dict[str, float]:
        masked = float(sums["masked"][0]) or math.nan
        return {
            "eval/generator_cross_entropy": float(sums["generator_cross_entropy"][0]) / masked,
            "eval/generator_accuracy": float(sums["generator_hits"][0]) / masked,
        }

    def observe(self, sums: Sums) -> None:
        self.sampler.observe(float(sums["weighted_loss"][0] / max(sums["masked"][0], 1.0)))

    def weight(self, drawn: Draw) -> Tensor:
        """The factors (M,) that the loss at drawn tokens gets: importance weights as the recipe uses them."""
        power, clip = self.settings.power, self.settings.weight_clip
        if power == 0:
            return torch.ones_like(drawn.weight)
        weight = drawn.weight if clip is None else drawn.weight.clamp(max=clip)
        return weight if power == 1 else weight**power

    def masked_positions(self, networks: Electra, batch: Batch, layout: Layout) -> Masked:
        """The generator's pass up to the vocabulary."""
        original = batch.ids.flatten()[batch.masked]
        shown = torch.where(batch.shown_as_mask, self.special.mask, original)
        ids = batch.ids.flatten().index_copy(0, batch.masked, shown).view_as(batch.ids)
        hidden = networks.generator_hidden(ids, layout, batch.masked)
        head = networks.generator_head
        assert head is not None
        return Masked(head(hidden), networks.word_embeddings, head.bias, hidden, original, batch.uniform)

    @classmethod
    def cost(cls, settings: GeneratorSettings, model: ModelConfig, trained: Collection[str]) -> CorruptionCost:
        return GeneratorCost(settings, model, trained)
