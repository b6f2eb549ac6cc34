"""Ends of a run on several ranks: whichever fails, the reason is printed once, and the others end with it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from electra_scale.cli import main
from electra_scale.train.checkpoint.state import newest
from electra_scale.train.lifecycle.status import read_status
from tests.support.fixtures.runs import end, environment, plain, rows, run
from tests.support.fixtures.s3 import free_ports
from tests.support.fixtures.warm import WarmProcess, start_warm
from tests.support.waiting import wait_for_rows

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]

MODULE = "electra_scale.pretrain"
FAILING = "tests.support.programs.failing_rank"


class Pair:
    """Two ranks that nobody ends: what each of them prints and returns is its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks: list[WarmProcess] = []

    def start(self, *arguments: str | Path, module: str = MODULE) -> list[WarmProcess]:
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(free_ports(1)[0])
        given = [str(argument) for argument in arguments]
        self.ranks = [
            start_warm(
                plain(*given, module=module),
                module,
                given,
                None,
                0,
                self.folder,
                {**environment(), **shared, "RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in "01"
        ]
        return self.ranks

    def ends(self, seconds: float = 120) -> list[tuple[int, str]]:
        """Exit code and stderr of each rank."""
        errors = [rank.communicate(timeout=seconds)[1] for rank in self.ranks]
        codes = [rank.wait() for rank in self.ranks]
        return list(zip(codes, errors, strict=True))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    for rank in pair.ranks:
        end(rank)


@pytest.mark.parametrize(
    ("rank", "place", "kind", "code"),
    [
        (1, "evaluation", "fault", 1),
        (0, "first weights", "fault", 1),
        (1, "the start", "user", 2),
    ],
)
def test_a_rank_that_fails_alone_says_why_once_and_the_other_ends_with_it(
    rank: int, place: str, kind: str, code: int, recipe_file: RecipeFile, tmp_path: Path, pair: Pair
) -> None:
    folder = tmp_path / "run"
    began = time.monotonic()
    arguments = ("--config", recipe_file(), "--run_dir", folder, "--resume", "auto")
    pair.start(str(rank), place, kind, *arguments, module=FAILING)
    ends = pair.ends(60)
    seconds = time.monotonic() - began
    assert [found for found, _ in ends] == [code, code], ends
    failed, other = ends[rank][1], ends[1 - rank][1]
    assert failed.count("electra-scale: error:") == 1, failed
    assert "injected" in failed.splitlines()[-1]
    assert ("Traceback" in failed) == (kind == "fault")
    assert "Traceback" not in other, other
    assert "electra-scale: error" not in other
    assert seconds < 60
    # Where it fails before the run has begun, the folder is as it was.
    if place == "evaluation":
        status = read_status(folder)
        assert status.state == "failed"
        assert "injected" in status.reason
        assert ("rank 1 on " in status.reason) == (rank == 1)


def test_a_rank_that_only_lost_another_one_prints_one_line(recipe_file: RecipeFile, tmp_path: Path, pair: Pair) -> None:
    path = recipe_file(**{"checkpoint.every": 100000, "schedule.steps": 20000})
    folder = tmp_path / "run"
    ranks = pair.start("--config", path, "--run_dir", folder)
    wait_for_rows(folder, 3, ranks[0])
    ranks[1].kill()
    _, err = ranks[0].communicate(timeout=60)
    assert ranks[0].wait() == 1
    lines = [line for line in err.splitlines() if "electra-scale" in line]
    assert len(lines) == 1
    assert "lost the other ranks at step " in lines[0]
    assert "Traceback" not in err
    status = read_status(folder)
    assert status.state == "failed"
    assert "lost the other ranks" in status.reason


@pytest.mark.parametrize("ending", ["SIGINT", "broken pipe"])
def test_a_run_in_a_terminal_saves_when_it_is_interrupted_and_outlives_its_output(
    ending: str, recipe_file: RecipeFile, tmp_path: Path, pair: Pair
) -> None:
    goes_on = ending == "broken pipe"
    changes = {"checkpoint.every": 100000, "schedule.steps": 14 if goes_on else 20000, "logging.evaluate_every": 9}
    folder = tmp_path / "run"
    processes = pair.start("--config", recipe_file(**changes), "--run_dir", folder)
    if goes_on:
        for process in processes:
            process.stdout.close()
            process.stderr.close()
        assert [process.wait(120) for process in processes] == [0, 0]
    else:
        wait_for_rows(folder, 3, processes[0])
        for process in processes:
            process.send_signal(getattr(signal, ending))
        out, err = processes[0].communicate(timeout=120)
        assert [process.wait(120) for process in processes] == [0, 0]
        assert "Traceback" not in err
        assert "which is saved: a signal to " in out
    status, state = read_status(folder), newest(folder / "checkpoints")
    assert status.state == ("finished" if goes_on else "stopped")
    assert state is not None
    assert state.step == status.step == len(rows(folder)) + (state.pending is not None)
    assert goes_on == ("can no longer be written (Broken pipe)" in (folder / "log.txt").read_text())


def test_a_run_that_is_stopped_before_its_first_step_says_so_and_its_command_works_again(
    recipe_file: RecipeFile, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    stop.write_text("the machine is needed")
    command = plain("--config", recipe_file(), "--run_dir", tmp_path / "run", "--stop_file", stop)
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "stopped before the first step" in result.stdout
    assert "which is saved" not in result.stdout
    assert read_status(tmp_path / "run").line().startswith("stopped at step 0 of 18")
    stop.unlink()
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert main(["status", str(tmp_path / "run")]) == 0
