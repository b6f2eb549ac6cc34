"""The hooks of everything that a run does around its steps."""

from __future__ import annotations

from dataclasses import dataclass

from electra_scale.monitor.meter import Meter
from electra_scale.recipe.phases import PhasePlan
from electra_scale.train.engine.engine import Engine


@dataclass
class StepDone:
    """A step that has been made, and what is known of it.

    Args:
        done: steps of the run so far, this one included.
        plan, engine, meter: of the step's phase.
        metrics: of the step's row, empty if the step is not logged; duties add to it.
        skipped: what was not finite (the loss or the gradient), so that nothing was updated; else empty.
        rank_seconds: how long each rank worked on a step before it needed another one, on average since the last row;
            empty if the step is not logged.
        completes_row: the step was made before the run was stopped in its evaluation; now its row is completed.
        measured: held-out text has been measured, if it was due; a stop before that leaves the row pending.
    """

    done: int
    plan: PhasePlan
    engine: Engine
    meter: Meter
    metrics: dict[str, float]
    skipped: str = ""
    rank_seconds: tuple[float, ...] = ()
    completes_row: bool = False
    measured: bool = False


class Duty:
    """Something that a run does around its steps. All ranks call the hooks of all duties in the same order."""

    def begin_phase(self) -> None:
        """A phase is about to be run, or resumed."""

    def after_step(self, step: StepDone) -> None:
        """A step has been made. Raises UserError to end the run."""

    def close(self) -> None:
        """The run has ended, for whatever reason; must not need other ranks."""
