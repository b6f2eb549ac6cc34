"""--profile FROM:TO: a trace of some steps of a real run, which stays the run that it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures.runs import plain, rows, run

pytestmark = pytest.mark.slow

SHORT = {"generator_warmup.steps": 2, "schedule.steps": 4, "schedule.warmup_steps": 1, "checkpoint.every": 3}


def ranges(trace: Path) -> list[str]:
    events: list[dict[str, Any]] = json.loads(trace.read_text())["traceEvents"]
    return [event["name"] for event in events if event.get("cat") == "user_annotation"]


def test_steps_are_recorded_across_phases_and_a_resume_and_change_no_number(
    recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    path, folder = recipe_file(**SHORT), tmp_path / "run"
    result = run(plain("--config", path, "--run_dir", tmp_path / "straight"), tmp_path)
    assert result.returncode == 0, result.stderr
    result = run(plain("--config", path, "--run_dir", folder, "--profile", "2:4"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(folder) == rows(tmp_path / "straight")
    trace = folder / "profile/steps-2-4.pt.trace.json"
    assert f"steps 2 to 4 of rank 0 are recorded in {trace}" in (folder / "log.txt").read_text()
    found = ranges(trace)
    # Two micro-batches a step.
    assert (found.count("forward"), found.count("backward"), found.count("optimizer")) == (6, 6, 3)
    more = ["--resume", "auto", "--schedule.steps", "5", "--profile", "1:3"]
    result = run(plain("--config", path, "--run_dir", folder, *more), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--profile 1:3 records nothing: these steps are made already" in (folder / "log.txt").read_text()
    assert [file.name for file in (folder / "profile").iterdir()] == [trace.name]


def test_a_bad_range_is_refused_before_anything_starts(recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run(plain("--config", recipe_file(**SHORT), "--run_dir", folder, "--profile", "5:9"), tmp_path)
    assert result.returncode == 2
    assert result.stderr == ("electra-scale: error: --profile is 5:9, and the run has 6 steps; choose steps up to 6\n")
    assert not folder.exists()
