"""What a run reports reaches its log, whenever and from wherever it comes, and nothing of it outlives the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_pipeline.places.retries import retries
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.engine.world import World
from electra_scale.train.lifecycle.reporter import Reporter


@pytest.fixture
def reporter(tmp_path: Path) -> Reporter:
    return Reporter(RunFolder(tmp_path), World(rank=0, size=1, device=torch.device("cpu")), 10)


def test_a_line_that_comes_after_the_end_is_appended_to_the_log(reporter: Reporter, tmp_path: Path) -> None:
    reporter.open(0, 0)
    reporter.log("a line of the run")
    reporter.close()
    reporter.log_of_rank("a line of a copy that ends late")
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines == ["a line of the run", "a line of a copy that ends late"]


def test_a_thread_that_holds_the_bar_while_the_run_ends_does_not_fail(reporter: Reporter) -> None:
    reporter.open(0, 0)
    progress = reporter._progress
    assert progress is not None
    reporter.close()
    progress.log("too late for the file")


def test_retries_are_reported_as_before_once_a_run_has_failed() -> None:
    before = retries.listener
    lines: list[str] = []

    @retries.listening(lines.append)
    def run() -> None:
        retries.report("attempt 1")
        raise RuntimeError("the run fails")

    with pytest.raises(RuntimeError, match="the run fails"):
        run()
    assert lines == ["attempt 1"]
    assert retries.listener == before
