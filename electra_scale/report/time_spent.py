"""Where the time of a run went, from the clock in its log and the speed in its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from electra_scale.report.material import Run

PARTS = ("training steps", "waiting for data", "evaluation, saving, start-up", "not running")


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of each of :data:`PARTS`."""

    seconds: Sequence[float]

    @property
    def total(self) -> float:
        return sum(self.seconds)

    @property
    def shares(self) -> list[float]:
        """Each part's share of the total."""
        return [part / self.total if self.total else 0.0 for part in self.seconds]


def time_spent(run: Run) -> TimeSpent | None:
    """The parts of a run's time; None where log or rows do not tell.

    The speed of a row holds for the steps since the row before.
    """
    speed = run.rows.columns.get("speed/tokens_per_second")
    running = run.log.running.total_seconds()
    if speed is None or not run.positions or running <= 0:
        return None
    known = np.flatnonzero(np.isfinite(speed) & (speed > 0))
    if not len(known):
        return None
    waits = run.rows.columns.get("speed/data_wait", np.zeros(len(speed)))
    steps = np.diff(run.rows.steps[known], prepend=0)
    seconds = steps * run.positions / speed[known]
    waiting = float(np.nansum(seconds * np.nan_to_num(waits[known])))
    # The clock of a log has whole seconds, and a report of a running run may be some lines late.
    computing = min(float(seconds.sum()), running) - min(waiting, running)
    rest = max(0.0, running - float(seconds.sum()))
    return TimeSpent([max(0.0, computing), min(waiting, running), rest, run.log.stopped.total_seconds()])
