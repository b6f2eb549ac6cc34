"""One global step after another: counts, losses, gradients and the update that all ranks make together."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import OneRankError, OtherRankError, UserError
from electra_scale.corruption.ahead import Ahead
from electra_scale.corruption.corruption import Clock, Statistic
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.data.noise import generator_key
from electra_scale.model.attention.layout import Layout
from electra_scale.monitor.meter import Meter
from electra_scale.recipe.phases import PhasePlan, learning_rate
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import GlobalCounts, PretrainModule
from electra_scale.tasks.sums import Flattener, Lists, combine, joined, lists_of, logged_value, whole
from electra_scale.train.checkpoint.state import RunState
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World
from electra_scale.train.feed import MicroBatches
from electra_scale.train.lifecycle.stop import StopRequests
from electra_scale.train.lifecycle.watchdog import Position

STEP_WINDOW = 100
"""Steps over which disc_loss_variance/step_window is taken."""

_WATCHED = "loss/discriminator"
"""The loss whose variance over steps is logged."""


@dataclass
class StepResult:
    """``metrics`` where the step is logged, else empty; ``skipped`` is what was not finite, or empty.

    ``rank_seconds`` of a logged step: how long each rank worked on a step, on average over those since the last row,
    before it needed another.
    """

    metrics: dict[str, float]
    skipped: str = ""
    rank_seconds: tuple[float, ...] = ()


class GlobalSteps:
    """Runs the steps of a run, and knows what the next one needs of those before it."""

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        loader: Loader,
        state: RunState,
        stop: StopRequests,
        where: Position,
        last_good: Callable[[], str],
    ) -> None:
        self.recipe = recipe
        self.world = world
        self.loader = loader
        self.stop = stop
        self.where = where
        self.last_good = last_good
        self.discriminator_losses: deque[float] = deque(state.discriminator_losses, maxlen=STEP_WINDOW)
        self.skipped = state.skipped
        self._first = True
        self._exact: dict[str, float] = {}
        self.skipped_in_row = state.skipped_in_row

    def run(
        self, step: int, steps: MicroBatches, plan: PhasePlan, engine: Engine, meter: Meter, logged: bool
    ) -> StepResult:
        """One step on all ranks.

        Raises:
            Stopped: a stop was asked for; nothing of the step has been done.
            OneRankError: a rank could not read its data.
            UserError: too many steps in a row were not finite.
        """
        self.where.at("waiting for its data", step + 1, patient=True)
        batches, ahead, failure = steps.take(step)
        self.where.at("agreeing on the counts", step + 1)
        module = engine.module
        counts = self._global_counts(module, batches, failure)
        # The first one of a start may compile for minutes.
        self.where.at("computing the gradient", step + 1, long=self._first)
        self._first = False
        kept, values, norms = self._gradient(step, self._clock(step, plan), batches, ahead, engine, counts, logged)
        finite = all(math.isfinite(values[one.name].sum()) for one in kept if one.weight is not None)
        if plan.name == "joint" and self.looks_ahead(step + 1, plan):
            self._draw_ahead(step + 1, steps, module, plan)
        self.where.at("updating the weights", step + 1)
        rate = learning_rate(plan, step, self.recipe)
        updated = engine.step(rate, refuse=not finite, norms=norms)
        meter.count(batches)
        skipped = ""
        if updated:
            self.skipped_in_row = 0
            if plan.name == "joint":
                module.corruptor.observe(values)
                watched = next((one for one in kept if one.name == _WATCHED), None)
                if watched is not None:
                    self.discriminator_losses.append(logged_value(watched, values))
        else:
            skipped = "gradient" if finite else "loss"
            self._count_skipped(step, skipped)
        if not logged:
            return StepResult({}, skipped)
        with self.world.stopwatch.part("logging"):
            metrics = self._metrics(plan, module, kept, values)
            metrics |= {"optim/lr": rate, "optim/grad_norm": engine.gradient_norm()}
            metrics["optim/head_grad_norm"] = engine.replicated_norms.get("sampler", 0.0)
            metrics["optim/skipped_steps"] = float(self.skipped)
            data, rank_seconds = self._data_metrics(self._exact["tokens"], meter)
        return StepResult(metrics | data, skipped, rank_seconds)

    def looks_ahead(self, step: int, plan: PhasePlan) -> bool:
        """Whether a step's replacements are drawn before the update of the one before.

        Not after a checkpoint of the recipe's interval, which then holds no draws; one that a stop asked for does
        (drawn_ahead.py), so that a resumed run draws what the straight one does.
        """
        saved = step % self.recipe.checkpoint.every == 0
        return self.recipe.corruption.looks_ahead and step < plan.last and not saved

    def poll(self) -> None:
        """Raise Stopped if any rank has been asked to stop; every rank must call it."""
        self.where.again()
        self.stop.raise_if_asked(self.world.sum_of(self.stop.votes()), self.world.size)

    def _clock(self, step: int, plan: PhasePlan) -> Clock:
        epoch = step * self.recipe.batch.global_batch // self.loader.samples
        return Clock.of(step, epoch, plan)

    def _gradient(
        self,
        step: int,
        clock: Clock,
        batches: list[Batch],
        ahead: list[Ahead | None],
        engine: Engine,
        counts: GlobalCounts,
        logged: bool,
    ) -> tuple[list[Statistic], dict[str, Any], list[float]]:
        """All micro-batches forward and backward; their statistics, the values over all ranks, counts included, and the
        norms of the gradient. What the host needs of the device for the whole step it reads here, at once."""
        total: Tensor | None = None
        maximum: Tensor | None = None
        flattener: Flattener | None = None
        lists: list[Lists] = []
        for number, batch in enumerate(batches):
            self._seed_dropout(step, number)
            layout = Layout.of(batch.segment).to(self.world.device)
            statistics = engine.forward_backward(
                batch.to(self.world.device), layout, clock, counts, logged, ahead[number]
            )
            if flattener is None:
                flattener = Flattener(statistics)
                of_host = flattener.maximum_mask()
                maximum = None if of_host is None else self.world.place(of_host)
            total = combine(total, flattener.pack(statistics), maximum)
            lists.append(lists_of(statistics))
        assert flattener is not None
        assert total is not None
        norms = engine.gather_norms()
        read = torch.cat([self._reduce(total, maximum), norms]).cpu().numpy()
        values: dict[str, Any] = dict(flattener.unpack(read[: len(total)]))
        # The same names on every rank, and none in a step that is not logged.
        if lists[0]:
            values |= whole(joined(self.world.gather(joined(lists))))
        counted = {name: np.array([value]) for name, value in self._exact.items()}
        return flattener.kept, counted | values, read[len(total) :].tolist()

    def _count_skipped(self, step: int, what: str) -> None:
        self.skipped += 1
        self.skipped_in_row += 1
        most = self.recipe.optimizer.most_skipped
        if self.skipped_in_row > most:
            raise UserError(
                f"the {what} is not finite at step {step + 1}, and {self.skipped_in_row} steps in a row were skipped "
                f"(optimizer.most_skipped {most}); {self.last_good()}; lower optimizer.learning_rate or look at the "
                "data, then resume with --resume auto"
            )

    def _draw_ahead(self, step: int, steps: MicroBatches, module: PretrainModule, plan: PhasePlan) -> None:
        clock = self._clock(step, plan)

        def draw(number: int, batch: Batch) -> Ahead:
            self._seed_dropout(step, number, "look-ahead dropout")
            layout = Layout.of(batch.segment).to(self.world.device)
            drawn: Ahead = module.corruptor.look_ahead(module.electra, batch.to(self.world.device), layout, clock)
            return drawn

        self.where.at("waiting for its next data", step, patient=True)
        with self.world.stopwatch.part("forward"):
            steps.draw_ahead(step, draw)

    def _metrics(
        self, plan: PhasePlan, module: PretrainModule, kept: list[Statistic], values: Mapping[str, Any]
    ) -> dict[str, float]:
        metrics = module.metrics(kept, values)
        if plan.name != "joint":
            return metrics
        recent = self.discriminator_losses
        metrics["disc_loss_variance/step_window"] = statistics.pvariance(recent) if len(recent) > 1 else 0.0
        return metrics

    def _data_metrics(self, tokens: float, meter: Meter) -> tuple[dict[str, float], tuple[float, ...]]:
        """How full the step's rows were, what all ranks have fetched since the run was started, and their speeds.

        A rank's seconds are those of its forward passes, in which no rank waits for another, and of its waiting for
        data; of a step, on average over those since the row before.
        """
        own = meter.own()
        seconds = [0.0] * self.world.size
        seconds[self.world.rank] = (own["forward"] + own["data_wait"]) / meter.steps
        size, errors, *summed = self.world.sum_of([*self.loader.fetched(), *own.values(), *seconds])
        positions = self.recipe.batch.global_batch * self.recipe.data.sequence_length
        metrics = {
            "data/packing_efficiency": tokens / positions,
            "data/fetched_mb": size / 1e6,
            "data/fetch_errors": errors,
        }
        speeds = meter.read(dict(zip(own, summed, strict=False)))
        return metrics | speeds, tuple(summed[len(own) :])

    def _global_counts(
        self, module: PretrainModule, batches: list[Batch], failure: OneRankError | None
    ) -> GlobalCounts:
        """Counts over all ranks; every rank learns here of a stop and of a rank without a batch, so that none waits."""
        names = module.count_names
        own = [sum(module.count(name, batch) for batch in batches) for name in names]
        local = [failure is not None, *self.stop.votes(), *own]
        failures, *rest = self.world.sum_of(local)
        votes, counted = rest[: -len(names)], rest[-len(names) :]
        self.stop.raise_if_asked(votes, self.world.size)
        if failures > 0:
            raise failure or OtherRankError("another rank could not read its data; its own line and log.txt say why")
        self._exact = dict(zip(names, counted, strict=True))
        on_device = self.world.place(torch.tensor(counted, dtype=torch.float64).float().clamp(min=1))
        return dict(zip(names, on_device.unbind(), strict=True))

    def _reduce(self, total: Tensor, maximum: Tensor | None) -> Tensor:
        summed = self.world.sum(total.clone())
        if maximum is None:
            return summed
        return torch.where(maximum, self.world.maximum(total), summed)

    def _seed_dropout(self, step: int, number: int, purpose: str = "dropout") -> None:
        if self.recipe.model.dropout or self.recipe.model.attention_dropout:
            torch.manual_seed(generator_key(self.recipe.seed, purpose, step, self.world.rank, number) >> 1)
