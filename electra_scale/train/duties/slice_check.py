"""Ends a run that cannot save within the time that its job is given."""

from __future__ import annotations

import torch

from electra_scale.train.checkpoint.state import RunState
from electra_scale.train.duty import Duty, StepDone
from electra_scale.train.engine.world import World
from electra_scale.train.lifecycle.time_slice import TimeSlice


class SliceCheck(Duty):
    """Checks the time slice, with the slowest rank's seconds, so that all ranks decide alike.

    A resumed run is checked at its start: its checkpoint has how long a step took on average, with evaluations
    and saves. Then this start's own steps count, and after its first save that too.

    Args:
        every: steps between checkpoints.
        state: what the run starts from.
    """

    def __init__(self, time_slice: TimeSlice, every: int, state: RunState, world: World) -> None:
        self.time_slice = time_slice
        self.every = every
        self.seconds_per_step = state.seconds / state.step if state.step else 0.0
        self.world = world
        self._started = False

    def begin_phase(self) -> None:
        started, self._started = self._started, True
        if self.seconds_per_step and not started:
            self._check()

    def after_step(self, step: StepDone) -> None:
        if not step.completes_row and self.time_slice.stepped():
            self._check()

    def _check(self) -> None:
        measured = torch.tensor(self.time_slice.measured(self.seconds_per_step), dtype=torch.float64)
        start_up, a_step, a_save = self.world.maximum(measured.to(self.world.device)).tolist()
        self.time_slice.check(start_up, a_step, a_save, self.every)
