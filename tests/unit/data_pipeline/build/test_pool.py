"""Workers that are started ahead of their work."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.build.pool import expect_workers, start_workers
from tests.support.waiting import wait_for


@pytest.mark.slow
def test_workers_prepare_before_there_is_work(tmp_path: Path) -> None:
    expect_workers(2, None)
    with start_workers(2, 2, None) as workers:
        workers.prepare(Path.touch, tmp_path / "prepared")
        wait_for((tmp_path / "prepared").exists, seconds=60)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_what_fails_in_preparation_keeps_no_task_from_being_done(count: int, tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    with start_workers(count, len(files), None) as workers:
        workers.prepare(Path.touch, tmp_path / "nowhere" / "file")
        assert len(list(workers.run(Path.touch, files))) == len(files)
    assert all(file.exists() for file in files)
