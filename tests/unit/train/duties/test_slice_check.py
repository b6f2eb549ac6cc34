"""When a run is ended because it could never save in its time slice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_pipeline.errors import UserError
from electra_scale.train.checkpoint.state import RunState
from electra_scale.train.duties.slice_check import SliceCheck
from electra_scale.train.lifecycle.time_slice import MEASURED_STEPS, TimeSlice


def world(slowest: list[float]) -> Any:
    """Ranks of which another one is so slow."""
    return SimpleNamespace(device="cpu", maximum=lambda own: torch.maximum(own, torch.tensor(slowest).double()))


def state(step: int, seconds: float) -> RunState:
    return RunState(step, "joint", 2, "tokenizer", {}, seconds=seconds)


def test_a_resumed_run_is_checked_at_once_by_the_mean_of_its_steps_and_a_new_one_is_not() -> None:
    hour, others = TimeSlice(3600.0, asks=False), world([0.0, 0.0, 0.0])
    SliceCheck(hour, 300, state(0, 0.0), others).begin_phase()
    SliceCheck(hour, 300, state(50, 500.0), others).begin_phase()
    check = SliceCheck(hour, 400, state(50, 500.0), others)
    with pytest.raises(UserError, match=r"checkpoint.every is 400, .* a step 10 s, a save 0 s"):
        check.begin_phase()
    # Only at the start: later phases go by what this start has measured.
    check.begin_phase()


def test_the_slowest_rank_decides_for_all() -> None:
    step: Any = SimpleNamespace(completes_row=False)
    completed: Any = SimpleNamespace(completes_row=True)
    for save, refused in ((10.0, False), (3500.0, True)):
        check = SliceCheck(TimeSlice(3600.0, asks=True), 10, state(0, 0.0), world([1.0, 0.1, save]))
        check.begin_phase()
        for _ in range(MEASURED_STEPS - 1):
            check.after_step(step)
        # A row that is only completed is no step of this start.
        check.after_step(completed)
        if refused:
            with pytest.raises(UserError, match="too short for start-up, one step and a save"):
                check.after_step(step)
        else:
            check.after_step(step)
