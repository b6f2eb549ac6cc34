"""Whether a run can make progress in the time that its job is given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from data_pipeline.errors import UserError

MEASURED_STEPS = 10
"""Steps of a new run after which its rate is believed; the first, which compiles, is left out of it."""

_USABLE = 0.9
"""Share of the slice that is counted on: steps are not equally long, and a job's clock starts before its processes."""


@dataclass(frozen=True)
class TimeSlice:
    """``seconds`` that a job is given, of which this process' start-up has taken some since ``began``.

    Where whoever ends the slice asks for a stop first (``asks``), the run saves then, wherever it is, so one step a
    slice is progress. Otherwise a whole interval of ``checkpoint.every`` steps must fit.
    """

    seconds: float
    asks: bool
    began: float = field(default_factory=time.monotonic)

    def check(self, start_up: float, a_step: float, a_save: float, every: int) -> None:
        """Raise UserError if the slice is over before the first save; all in seconds, ``every`` in steps."""
        left = _USABLE * self.seconds - start_up - a_save
        fits = int(left / a_step) if left > 0 else 0
        if fits >= (1 if self.asks else every):
            return
        minutes = self.seconds / 60
        measured = f"start-up {start_up:.3g} s, a step {a_step:.3g} s, a save {a_save:.3g} s"
        if fits == 0:
            raise UserError(
                f"a time slice of {minutes:.3g} min is too short for start-up, one step and a save ({measured}): the "
                "run would never progress; give the job more time"
            )
        raise UserError(
            f"checkpoint.every is {every}, which a time slice of {minutes:.3g} min cannot hold ({measured}): the run "
            f"would never progress; set checkpoint.every to {fits} or less, or have the job ask for a stop in time "
            "(--stop_file)"
        )
