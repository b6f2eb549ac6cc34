"""At the end of a run its ranks wait for the last copy together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.fixtures.runs import ROOT, end, ranks, start
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

_SLOW_PLACE = """
import os, time

if "RANK" in os.environ:
    from data_pipeline.places.folder import FolderPlace

    put_file = FolderPlace.put_file

    def slowly(self, name, source):
        if "step-00000018" in name:
            time.sleep(3)
        put_file(self, name, source)

    FolderPlace.put_file = slowly
"""


@pytest.mark.parametrize("again", [False, True], ids=["a run", "a finished run"])
def test_no_rank_leaves_before_the_last_checkpoint_is_copied(
    again: bool, recipe_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher may end those that are left some time after the first has gone."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(_SLOW_PLACE)
    copied = tmp_path / "copy/checkpoints/step-00000018/run_state.json"
    path = recipe_file(**{"checkpoint.upload": str(tmp_path / "copy"), "checkpoint.every": 18})
    command = ranks(2, "--config", path, "--run_dir", tmp_path / "run", "--resume", "auto")
    if again:
        process = start(command, tmp_path)
        assert process.wait(120) == 0, process.communicate()
        copied.unlink()
    process = start(["env", f"PYTHONPATH={tmp_path / 'site'}{os.pathsep}{ROOT}", *command], tmp_path)
    try:
        wait_for(lambda: len(psutil.Process(process.pid).children()) == 2, process, 60)
        second = psutil.Process(process.pid).children()[1]
        wait_for(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE, process, 120)
        assert copied.is_file()
        assert process.wait(60) == 0
    finally:
        end(process)
