"""The checkpoints of a run: at the recipe's interval, and where it is when it is asked to stop."""

from __future__ import annotations

import time

from electra_scale.data.loader import Loader
from electra_scale.recipe.phases import PhasePlan
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.checkpoint.state import RunState
from electra_scale.train.checkpointer import Checkpointer
from electra_scale.train.drawn_ahead import save_draws
from electra_scale.train.duty import Duty, StepDone
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World
from electra_scale.train.feed import MicroBatches
from electra_scale.train.global_step import GlobalSteps
from electra_scale.train.lifecycle.reporter import Reporter
from electra_scale.train.lifecycle.time_slice import TimeSlice
from electra_scale.train.lifecycle.watchdog import Position


class Saving(Duty):
    """Saves a checkpoint whenever one is due.

    ``state`` is that of the newest checkpoint, at first the one that the run starts from.
    """

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        checkpoints: Checkpointer,
        global_steps: GlobalSteps,
        loader: Loader,
        tokenizer: str,
        state: RunState,
        reporter: Reporter,
        position: Position,
        time_slice: TimeSlice | None,
    ) -> None:
        self.recipe = recipe
        self.world = world
        self.checkpoints = checkpoints
        self.global_steps = global_steps
        self.loader = loader
        self.tokenizer = tokenizer
        self.state = state
        self.reporter = reporter
        self.position = position
        self.time_slice = time_slice
        self._started = time.monotonic()

    def begin_phase(self) -> None:
        self._started = time.monotonic() - self.state.seconds

    def after_step(self, step: StepDone) -> None:
        if step.completes_row:
            self._rewrite_state(step.plan)
        elif step.done % self.recipe.checkpoint.every == 0 or step.done == step.plan.last:
            with step.meter.leave_out():
                self._save(step.done, step.plan, step.engine, None)

    def stop(self, step: StepDone | None, plan: PhasePlan, engine: Engine, feed: MicroBatches) -> None:
        """Save where the run is, with all that the next step needs; ``step`` is the last one of this start, if any."""
        if step is None:
            return
        pending = None if step.measured else step.metrics
        if step.done == self.state.step:
            if pending not in (None, self.state.pending):
                self._rewrite_state(plan, pending)
            return
        folder = self.checkpoints.unfinished(step.done)
        save_draws(folder, feed.drawn_for(step.done), self.global_steps.looks_ahead(step.done, plan), self.world)
        self._save(step.done, plan, engine, pending)

    def close(self) -> None:
        self.checkpoints.close()

    def _save(self, done: int, plan: PhasePlan, engine: Engine, pending: dict[str, float] | None) -> None:
        started = time.monotonic()
        self.state = self._state(done, plan, pending)
        self.position.at("saving a checkpoint", done, long=True)
        # Rows and checkpoint must fit together after a kill.
        self.reporter.flush()
        self.checkpoints.save(engine, self.state)
        if self.time_slice is not None:
            self.time_slice.saved(time.monotonic() - started)
        self.reporter.status("running", done)

    def _rewrite_state(self, plan: PhasePlan, pending: dict[str, float] | None = None) -> None:
        # The checkpoint is there, only its record of the pending row is out of date.
        self.state = self._state(self.state.step, plan, pending)
        self.checkpoints.rewrite_state(self.state)

    def _state(self, done: int, plan: PhasePlan, pending: dict[str, float] | None) -> RunState:
        steps = self.global_steps
        return RunState(
            step=done,
            phase=plan.name,
            world_size=self.world.size,
            tokenizer=self.tokenizer,
            loader=self.loader.state(done).to_dict(),
            discriminator_losses=list(steps.discriminator_losses),
            seconds=time.monotonic() - self._started,
            finished=done == self.recipe.total_steps and pending is None,
            skipped=steps.skipped,
            skipped_in_row=steps.skipped_in_row,
            pending=pending,
        )
