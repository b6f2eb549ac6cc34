"""What people see of each step: the progress bar, skipped steps, slow ranks."""

from __future__ import annotations

from collections.abc import Sequence

from electra_scale.monitor.slow_ranks import SlowRanks, rank_metrics
from electra_scale.train.duty import Duty, StepDone
from electra_scale.train.global_step import GlobalSteps
from electra_scale.train.lifecycle.reporter import Reporter


class StepLines(Duty):
    """Moves the progress bar and reports skipped steps."""

    def __init__(self, reporter: Reporter, global_steps: GlobalSteps) -> None:
        self.reporter = reporter
        self.global_steps = global_steps

    def after_step(self, step: StepDone) -> None:
        if step.completes_row:
            return
        self.reporter.advance(step.done)
        if step.skipped:
            self.reporter.log(
                f"step {step.done} is skipped: its {step.skipped} is not finite ({self.global_steps.skipped_in_row} in "
                f"a row, {self.global_steps.skipped} in all); weights and optimizer stay as they were"
            )


class RankTimes(Duty):
    """Adds the step time of each rank to the row, and reports a rank that stays slow. ``hosts`` by rank."""

    def __init__(self, reporter: Reporter, hosts: Sequence[str]) -> None:
        self.reporter = reporter
        self.slow_ranks = SlowRanks(hosts)

    def after_step(self, step: StepDone) -> None:
        if not step.rank_seconds:
            return
        step.metrics |= rank_metrics(step.rank_seconds)
        for sentence in self.slow_ranks.see(step.done, step.rank_seconds):
            self.reporter.log(sentence)
