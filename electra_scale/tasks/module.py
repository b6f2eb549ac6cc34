"""What one micro-batch contributes: the loss of corruption and task, and statistics for metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from electra_scale.corruption.corruption import Clock, Corruptor, LossTerm, Statistic, Sums, build_corruptor
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.phases import Phase
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.sums import logged
from electra_scale.tasks.task import Task, build_task

GlobalCounts = Mapping[str, Tensor]
"""Numbers () that the loss sums are divided by, of the global batch, by name: masked, tokens and the like."""


class PretrainModule(nn.Module):
    """Networks, corruption and task as the engine sees them.

    Losses are sums over the micro-batch divided by counts of the *global* batch, so that gradients do not depend on
    how it is split; ``loss_scale`` undoes the averaging over ranks and micro-batches that the engine applies.
    """

    def __init__(self, electra: Electra, corruptor: Corruptor, task: Task, phase: Phase) -> None:
        super().__init__()
        self.electra = electra
        self.corruptor = corruptor
        self.task = task
        self.phase = phase
        self.learned = {name: (part, corruptor.training(name)) for name, part in corruptor.modules().items()}
        self.learned |= {name: (part, task.training(name)) for name, part in task.modules().items()}
        for name, (part, _) in self.learned.items():
            self.add_module(name, part)

    def forward(
        self,
        batch: Batch,
        layout: Layout,
        clock: Clock,
        counts: GlobalCounts,
        loss_scale: float,
        detailed: bool,
        ahead: Any = None,
    ) -> tuple[Tensor, list[Statistic]]:
        """Loss to run backward on, and the micro-batch's statistics, those for all metrics if ``detailed``.

        With ``ahead`` the replacements are those that were drawn before, weighted for the networks as they are now.
        """
        corruption = self.corruptor.corrupt(self.electra, batch, layout, clock, detailed, ahead)
        terms, statistics = list(corruption.terms), list(corruption.statistics)
        if self.phase == "joint":
            hidden = self.electra.discriminator_hidden(corruption.ids, layout, self.task.depths)
            found = self.task.terms(self.electra, hidden, corruption, batch, detailed)
            terms += found.terms
            statistics += found.statistics
            token_loss = found.token_loss.flatten()[corruption.positions]
            terms += self.corruptor.feedback(corruption, token_loss)
            if detailed:
                statistics += self.corruptor.feedback_statistics(corruption, token_loss)
        statistics += [term.statistic() for term in terms]
        return total_loss(terms, counts) * loss_scale, statistics

    def count(self, name: str, batch: Batch) -> int:
        """This micro-batch's share of a global count; the batch is on the host."""
        own = self.task.count(name, batch)
        return self.corruptor.count(name, batch) if own is None else own

    @property
    def count_names(self) -> list[str]:
        """The global counts that are summed over all ranks before a step."""
        return sorted({*self.corruptor.counts, *self.task.counts})

    def metrics(self, kept: Sequence[Statistic], sums: Sums) -> dict[str, float]:
        """All metrics of a step from the global values of its statistics and counts; see :func:`sums.logged`."""
        found = logged(kept, sums) | self.corruptor.metrics(sums, self.phase)
        return found | self.task.metrics(sums) if self.phase == "joint" else found


def total_loss(terms: Sequence[LossTerm], counts: GlobalCounts) -> Tensor:
    """The loss () of a micro-batch: each term's sum divided by its global count, weighted."""
    return torch.stack([term.weight * term.sum / counts[term.per] for term in terms]).sum()


def build_module(recipe: Recipe, model: ModelConfig, special: SpecialTokens, phase: Phase) -> PretrainModule:
    """The networks with their first weights, and the methods that the recipe chooses."""
    electra = Electra(model, recipe.seed, with_generator=recipe.corruption.uses_generator)
    corruptor = build_corruptor(recipe.corruption, model, special, recipe.seed)
    return PretrainModule(electra, corruptor, build_task(recipe.task, model, special), phase)
