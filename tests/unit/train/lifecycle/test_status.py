"""What batch scripts read of a run, and what a start is refused for."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.train.lifecycle import time_slice
from electra_scale.train.lifecycle.status import Status, read_status, write_status
from electra_scale.train.lifecycle.time_slice import MEASURED_STEPS, TimeSlice


def test_the_command_tells_finished_from_unfinished_and_both_from_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for state, code in (("finished", 0), ("running", 3), ("stopped", 3), ("failed", 3)):
        write_status(tmp_path, Status(state, 7, 9, "why"))
        assert read_status(tmp_path).state == state
        assert main(["status", str(tmp_path)]) == code
        assert f"{state} at step 7 of 9: why" in capsys.readouterr().out
    for content in ("{", '{"version": 2}', '{"version": 1, "state": "odd", "step": 1, "total_steps": 2}', "[]"):
        (tmp_path / "status.json").write_text(content)
        assert main(["status", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "status.json").unlink()
    assert main(["status", str(tmp_path)]) == 2


def test_a_slice_that_cannot_hold_an_interval_is_refused_with_one_that_fits() -> None:
    hour = TimeSlice(3600.0, asks=False)
    hour.check(start_up=100.0, a_step=1.0, a_save=40.0, every=3100)
    with pytest.raises(UserError, match=r"checkpoint.every is 3101.*to 3100 or less"):
        hour.check(start_up=100.0, a_step=1.0, a_save=40.0, every=3101)
    with pytest.raises(UserError, match="too short"):
        hour.check(start_up=3600.0, a_step=1.0, a_save=0.0, every=1)
    asked = TimeSlice(3600.0, asks=True)
    asked.check(start_up=100.0, a_step=1.0, a_save=40.0, every=1_000_000)
    with pytest.raises(UserError, match="too short"):
        asked.check(start_up=100.0, a_step=7200.0, a_save=40.0, every=1)


def test_a_slice_times_start_up_steps_and_saves_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time_slice.time, "monotonic", lambda: now[0])
    hour = TimeSlice(3600.0, asks=False)

    def step(seconds: float, save: float = 0.0) -> bool:
        now[0] += seconds + save
        if save:
            hour.saved(save)
        return hour.stepped()

    now[0] += 30
    assert hour.measured(7.0) == [30, 7.0, 0]
    assert not step(60, save=5)
    assert hour.measured(7.0) == [90, 7.0, 5]
    found = [step(2, save=200 if number % 4 == 0 else 0) for number in range(2, MEASURED_STEPS + 5)]
    assert hour.measured() == [90, 2, 200]
    # There is news when the rate is known, and none later: a save was known by then.
    assert [number for number, new in enumerate(found, 2) if new] == [MEASURED_STEPS]
    hour = TimeSlice(3600.0, asks=False)
    found = [step(2, save=200 if number % 12 == 0 else 0) for number in range(1, 40)]
    assert [number for number, new in enumerate(found, 1) if new] == [MEASURED_STEPS, 12]
