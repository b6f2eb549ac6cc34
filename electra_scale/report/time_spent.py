"""Where the time of a run went, from the clock in its log and the speed in its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from electra_scale.report.material import Run

_OF_A_STEP = {"forward": "forward", "backward": "backward", "exchange": "between ranks", "optimizer": "update"}
"""Parts of a step that its row has a share of, under ``speed/``, and what they are called."""

PARTS = (
    *_OF_A_STEP.values(),
    "rest of the steps",
    "waiting for data",
    "evaluation, saving, start-up",
    "not running",
)


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

    Speed and shares of a row hold for the steps since the row before. Rows of earlier releases have no shares but that
    of waiting, and their steps are all rest.
    """
    speed = run.rows.columns.get("speed/tokens_per_second")
    running = run.log.running.total_seconds()
    if speed is None or not run.positions or running <= 0:
        return None
    known = np.flatnonzero(np.isfinite(speed) & (speed > 0))
    if not len(known):
        return None
    steps = np.diff(run.rows.steps[known], prepend=0)
    seconds = steps * run.positions / speed[known]
    # The clock of a log has whole seconds, and a report of a running run may be some lines late.
    scale = min(1.0, running / float(seconds.sum()))

    def spent(name: str) -> float:
        shares = run.rows.columns.get(f"speed/{name}", np.zeros(len(speed)))
        return scale * float((seconds * np.nan_to_num(shares[known])).sum())

    waiting, parts = spent("data_wait"), [spent(name) for name in _OF_A_STEP]
    stepping = scale * float(seconds.sum())
    rest_of_steps = max(0.0, stepping - waiting - sum(parts))
    between = max(0.0, running - stepping)
    return TimeSpent([*parts, rest_of_steps, waiting, between, run.log.stopped.total_seconds()])
