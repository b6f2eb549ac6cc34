"""A run that is asked to stop, or whose numbers are bad, resumes as if nothing had happened."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from electra_scale.cli import main
from electra_scale.train.checkpoint.state import newest
from electra_scale.train.lifecycle.status import read_status
from tests.support.fixtures.runs import end, plain, ranks, rows, run, start
from tests.support.waiting import wait_for_rows

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]


def lives(recipe: Path, folder: Path, polls: int, spoiled: str = "") -> str:
    """Output of tests/support/programs/stopped_lives.py on two ranks."""
    arguments = (recipe, folder, str(polls), spoiled)
    result = run(ranks(2, *arguments, module="tests.support.programs.stopped_lives"), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("changes", [{}, {"corruption.look_ahead": True}], ids=["plain", "look-ahead"])
def test_a_run_stopped_at_any_step_evaluation_and_probe_equals_the_straight_one(
    changes: dict[str, Any], recipe_file: RecipeFile, tmp_path: Path
) -> None:
    path = recipe_file(**{"checkpoint.every": 7, **changes})
    out = lives(path, tmp_path, polls=7)
    assert rows(tmp_path / "lives") == rows(tmp_path / "straight"), out
    assert "same=True" in out
    log = (tmp_path / "lives/log.txt").read_text()
    assert log.count("a signal to 1 of 2 ranks") >= 6
    assert main(["status", str(tmp_path / "lives")]) == 0


def test_steps_that_are_not_finite_are_skipped_counted_and_survive_stops(
    recipe_file: RecipeFile, tmp_path: Path
) -> None:
    out = lives(recipe_file(**{"checkpoint.every": 7}), tmp_path, polls=7, spoiled="3,9")
    found = rows(tmp_path / "straight")
    assert rows(tmp_path / "lives") == found, out
    assert "same=True" in out
    counts = {row["step"]: row["optim/skipped_steps"] for row in found}
    assert [counts[step] for step in (2, 3, 4, 5, 8, 9, 10, 18)] == [0, 1, 2, 2, 2, 3, 4, 4]
    bad = [row["step"] for row in found if row["loss/total"] is None]
    assert bad == [4, 10]
    assert all(row["optim/grad_norm"] is not None for row in found if row["step"] not in (3, 4, 9, 10))
    assert "step 3 is skipped: its gradient is not finite" in (tmp_path / "straight/log.txt").read_text()


def test_too_many_skipped_steps_end_the_run_and_name_the_last_good_checkpoint(
    recipe_file: RecipeFile, tmp_path: Path
) -> None:
    changes = {"optimizer.learning_rate": 1e30, "optimizer.most_skipped": 2, "schedule.warmup_steps": 0}
    path = recipe_file(**changes, **{"generator_warmup.steps": 6, "checkpoint.every": 1, "checkpoint.keep": 30})
    result = run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "3 steps in a row were skipped" in result.stderr
    assert "checkpoints/step-00000007" in result.stderr
    status = read_status(tmp_path / "run")
    assert status.state == "failed"
    assert "in a row were skipped" in status.reason


def test_a_stop_file_and_a_signal_to_one_rank_save_and_end_with_code_0(
    recipe_file: RecipeFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(**{"checkpoint.every": 100000, "schedule.steps": 20000, "checkpoint.stop_signal": "USR1"})
    folder, file = tmp_path / "run", tmp_path / "stop"
    arguments = ("--config", path, "--run_dir", folder, "--stop_file", file, "--resume", "auto")
    reached = 0
    for ask in ("file", "signal"):
        file.unlink(missing_ok=True)
        process = start(ranks(2, *arguments), tmp_path)
        try:
            wait_for_rows(folder, reached + 3, process)
            assert main(["status", str(folder)]) == 3
            if ask == "file":
                file.write_text("the job's time is over\n")
            else:
                os.kill(psutil.Process(process.pid).children()[1].pid, signal.SIGUSR1)
            out, err = process.communicate(timeout=120)
        finally:
            end(process)
        assert process.returncode == 0, err
        reason = "the job's time is over" if ask == "file" else "a signal to 1 of 2 ranks"
        assert out.count(f"stopped at step {read_status(folder).step}, which is saved") == 1
        assert reason in out
        status = read_status(folder)
        assert status.state == "stopped"
        assert reason in status.reason
        state = newest(folder / "checkpoints")
        assert state is not None
        # A stop during an evaluation leaves the row of its step to the next start.
        assert reached < status.step == len(rows(folder)) + (state.pending is not None)
        reached = status.step
    capsys.readouterr()
    assert main(["status", str(folder)]) == 3
    assert f"stopped at step {reached} of 20006" in capsys.readouterr().out
    # One that is there before the first step stops it there, and what was is untouched.
    file.write_text("")
    result = run(plain("--config", path, "--run_dir", tmp_path / "other", "--stop_file", file), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "stopped before the first step" in result.stdout
    assert read_status(tmp_path / "other").line().startswith("stopped at step 0")


def test_a_stuck_rank_is_named_by_the_other_which_ends(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(**{"checkpoint.every": 100000, "schedule.steps": 20000, "logging.stuck_minutes": 0.2})
    folder = tmp_path / "run"
    process = start(ranks(2, "--config", path, "--run_dir", folder), tmp_path)
    try:
        wait_for_rows(folder, 3, process)
        psutil.Process(process.pid).children()[1].send_signal(signal.SIGSTOP)
        _, err = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 1
    assert "rank 1 on " in err
    assert "did not report" in err
    assert read_status(folder).state == "failed"


def test_an_interval_that_the_time_slice_cannot_hold_is_refused(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(
        **{"checkpoint.every": 100000, "schedule.steps": 100000, "generator_warmup.steps": 0, "logging.probe_every": 0}
    )
    command = plain("--config", path, "--run_dir", tmp_path / "run", "--time_slice_minutes", "5")
    result = run(command, tmp_path)
    assert result.returncode == 2, result.stdout
    assert "checkpoint.every is 100000" in result.stderr
    assert result.stderr.count("electra-scale: error") == 1


SLOW_CLOCK = """
import sys, time
from electra_scale import pretrain
from electra_scale.train.engine.engine import Engine
from electra_scale.train.global_step import GlobalSteps

real, passed = time.monotonic, [0.0]
time.monotonic = lambda: real() + passed[0]

def slowed(method, seconds):
    def slow(*arguments, **more):
        passed[0] += seconds
        return method(*arguments, **more)
    return slow

a_step, a_save = map(float, sys.argv[1:3])
GlobalSteps.run = slowed(GlobalSteps.run, a_step)
Engine.save = slowed(Engine.save, a_save)
sys.exit(pretrain.main(sys.argv[3:]))
"""
"""A run whose steps and saves take as long as its first two arguments say, by a clock that jumps."""


@pytest.mark.parametrize(
    ("a_save", "every", "stop_file", "refusal"),
    [
        (3600, 4, True, r"a time slice of 30 min is too short .* a save 3\.6e\+03 s"),
        # The steps fit, and with the save they do not, whether it comes before or after the steps are timed. The time
        # that a save really takes comes on top.
        (1200, 4, False, r"checkpoint\.every is 4, .* a save 1\.2e\+03 s.* to [123] or less"),
        (450, 12, False, r"checkpoint\.every is 12, .* a save 45\d s.* to (9|10) or less"),
        (1, 12, False, ""),
    ],
)
def test_the_save_counts_towards_the_time_slice(
    a_save: int, every: int, stop_file: bool, refusal: str, recipe_file: RecipeFile, tmp_path: Path
) -> None:
    path = recipe_file(**{"generator_warmup.steps": 0, "checkpoint.every": every, "logging.probe_every": 0})
    more = ["--stop_file", str(tmp_path / "stop")] if stop_file else []
    options = ["--config", str(path), "--run_dir", str(tmp_path / "run"), "--schedule.steps", "14"]
    command = [sys.executable, "-c", SLOW_CLOCK, "100", str(a_save), *options, "--time_slice_minutes", "30", *more]
    result = run(command, tmp_path)
    if refusal:
        assert result.returncode == 2, result.stdout
        (line,) = (line for line in result.stderr.splitlines() if "electra-scale: error" in line)
        assert re.search(refusal, line), line
        assert read_status(tmp_path / "run").state == "failed"
    else:
        assert result.returncode == 0, result.stderr
