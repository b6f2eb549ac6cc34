"""Whether a run can make progress in the time that its job is given."""

from __future__ import annotations

import time

from data_pipeline.errors import UserError

MEASURED_STEPS = 10
"""Steps of a start after which its rate is believed; the first one, which compiles, is left out of it."""

_USABLE = 0.9
"""Share of the slice that is counted on: steps are not equally long, and a job's clock starts before its processes."""


class TimeSlice:
    """The time that a job is given, and what this start of the run has measured of itself since it was created.

    Where whoever ends the slice asks for a stop first (``asks``), the run saves then, wherever it is, so one step a
    slice is progress. Otherwise a whole interval of ``checkpoint.every`` steps must fit. Either way a save must.

    Args:
        seconds: length of the slice, which starts now.
        asks: whether a stop is asked for before the slice ends.
    """

    def __init__(self, seconds: float, asks: bool) -> None:
        self.seconds = seconds
        self.asks = asks
        self._started = time.monotonic()
        self._first_step_ended: float | None = None
        self._last_step_ended = self._started
        self._steps = 0
        self._last_save = 0.0
        self._all_saves = 0.0
        self._save_counted = False

    def saved(self, seconds: float) -> None:
        """A save took ``seconds``; to be called before :meth:`stepped` of the step that it follows."""
        self._last_save = seconds
        self._all_saves += seconds

    def stepped(self) -> bool:
        """A step has ended, with the evaluation and the save after it; whether :meth:`check` has something new to see.

        That is so once the rate is known, and once more when the first save of this start comes later than that.
        """
        self._steps += 1
        self._last_step_ended = time.monotonic() - self._all_saves
        if self._first_step_ended is None:
            self._first_step_ended = self._last_step_ended
        if self._steps < MEASURED_STEPS:
            return False
        new_save = self._last_save > 0 and not self._save_counted
        self._save_counted |= new_save
        return new_save or self._steps == MEASURED_STEPS

    def measured(self, seconds_per_step: float = 0.0) -> list[float]:
        """Seconds of the start-up, of a step and of a save, as far as they are known.

        The start-up lasts until the end of the first step. ``seconds_per_step`` stands for the rate before it is
        measured.
        """
        ended = time.monotonic() if self._first_step_ended is None else self._first_step_ended
        start_up = ended - self._started
        if self._first_step_ended is not None and self._steps > 1:
            seconds_per_step = (self._last_step_ended - self._first_step_ended) / (self._steps - 1)
        return [start_up, seconds_per_step, self._last_save]

    def check(self, start_up: float, a_step: float, a_save: float, every: int) -> None:
        """Raise UserError if the slice is over before a save; all in seconds, ``every`` in steps."""
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
