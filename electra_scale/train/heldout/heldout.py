"""What a run measures on held-out text, and when."""

from __future__ import annotations

from collections.abc import Callable

from electra_scale.corruption.corruption import Clock
from electra_scale.data.loader import Loader
from electra_scale.monitor.draw_variance import probe_metrics
from electra_scale.recipe.phases import PhasePlan
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.duty import Duty, StepDone
from electra_scale.train.engine.world import World
from electra_scale.train.heldout.evaluation import evaluate
from electra_scale.train.heldout.pairs import HeldoutPairs
from electra_scale.train.heldout.probe import probe
from electra_scale.train.lifecycle.watchdog import Position

_EVALUATION, _PROBED = "eval/", "disc_loss_variance/draw_ratio"


class Heldout(Duty):
    """Evaluations, with pairs where a discriminator trains, and variance probes.

    Args:
        loader: of held-out rows; None for a store without held-out text, where nothing is measured.
        micro_batch: rows that go through the networks at once.
        poll: called again and again on every rank; where it raises, what was complete is in the step's metrics.
        log: gets a line for what cannot be measured.
    """

    def __init__(
        self,
        recipe: Recipe,
        loader: Loader | None,
        micro_batch: int,
        world: World,
        position: Position,
        poll: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self.recipe = recipe
        self.loader = loader
        self.micro_batch = micro_batch
        self.world = world
        self.position = position
        self.poll = poll
        self.pairs: HeldoutPairs | None = None
        if loader is not None:
            most, rows = recipe.logging.pairs, recipe.batch.most_per_device
            self.pairs = HeldoutPairs(loader, most, rows, world, log)

    def after_step(self, step: StepDone) -> None:
        """Add to the step's metrics what is due after it and not there yet."""
        self.position.at("measuring held-out text", step.done)
        if self.loader is not None:
            with step.meter.leave_out():
                self._measure(step, self.loader)
        step.measured = True

    def _measure(self, step: StepDone, loader: Loader) -> None:
        logging, share = self.recipe.logging, self.recipe.data.mask_share
        module, metrics = step.engine.module, step.metrics
        if self._evaluates_at(step.done, step.plan) and not any(name.startswith(_EVALUATION) for name in metrics):
            found = evaluate(module, loader, logging.evaluate_samples, share, self.micro_batch, self.world, self.poll)
            if self.pairs is not None and step.plan.name == "joint":
                found |= self.pairs.measure(module, self.poll)
            metrics |= found
        if self._probes_at(step.done, step.plan) and _PROBED not in metrics:
            redrawn = probe(
                module,
                loader,
                logging.probe_samples,
                logging.probe_draws,
                share,
                self.micro_batch,
                self.world,
                Clock.of(step.done, 0, step.plan),
                poll=self.poll,
            )
            metrics |= probe_metrics(redrawn)

    def _evaluates_at(self, done: int, plan: PhasePlan) -> bool:
        return done % self.recipe.logging.evaluate_every == 0 or done == plan.last

    def _probes_at(self, done: int, plan: PhasePlan) -> bool:
        every = self.recipe.logging.probe_every
        if not every or plan.name != "joint":
            return False
        return (done - plan.first) % every == 0 or done == plan.last
