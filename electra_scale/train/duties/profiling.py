"""A trace of some steps, for people who want to see where their time goes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from electra_scale.monitor.stopwatch import Stopwatch
from electra_scale.train.duty import Duty, StepDone
from electra_scale.train.lifecycle.profiled_steps import ProfiledSteps
from electra_scale.train.lifecycle.reporter import Reporter


class Profiling(Duty):
    """Records the main rank's operations in these steps, and writes them as a file that Perfetto and TensorBoard open.

    Whatever else is done between two of the steps (rows, an evaluation, a save) is in it too. Recording makes the steps
    slower and changes no number.

    Args:
        steps: which.
        done: steps of the run that are made before this start.
        folder: where the file goes.
        device: where the networks are.
    """

    def __init__(
        self,
        steps: ProfiledSteps,
        done: int,
        folder: Path,
        device: torch.device,
        stopwatch: Stopwatch,
        reporter: Reporter,
    ) -> None:
        self.steps = steps
        self.folder = folder
        self.stopwatch = stopwatch
        self.reporter = reporter
        self._done = done
        self._first = done + 1
        self._kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._profile: profile | None = None
        if done >= steps.last and reporter.main:
            reporter.log(f"--profile {steps.first}:{steps.last} records nothing: these steps are made already")

    def begin_phase(self) -> None:
        self._begin_if_due()

    def after_step(self, step: StepDone) -> None:
        self._done = step.done
        if self._profile is not None and step.done >= self.steps.last:
            with step.meter.leave_out():
                self._end()
        with step.meter.leave_out():
            self._begin_if_due()

    def close(self) -> None:
        self._end()

    def _begin_if_due(self) -> None:
        due = self.steps.first <= self._done + 1 <= self.steps.last
        if self._profile is not None or not due or not self.reporter.main:
            return
        self._first = self._done + 1
        self.stopwatch.named = True
        self._profile = profile(activities=self._kinds)
        self._profile.start()

    def _end(self) -> None:
        recorded, self._profile = self._profile, None
        if recorded is None:
            return
        self.stopwatch.named = False
        recorded.stop()
        if self._done < self._first:
            self.reporter.log(f"--profile {self.steps.first}:{self.steps.last} recorded no whole step")
            return
        # The ending is what TensorBoard's plugin looks for.
        path = self.folder / f"steps-{self._first}-{self._done}.pt.trace.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            recorded.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:
            # A run is worth more than its trace.
            self.reporter.log(f"warning: the trace {path} could not be written ({str(error).partition(chr(10))[0]})")
            return
        self.reporter.log(
            f"steps {self._first} to {self._done} of rank 0 are recorded in {path}: open it in ui.perfetto.dev, or "
            "with TensorBoard and its plugin torch-tb-profiler"
        )
