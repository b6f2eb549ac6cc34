"""Two starts of one run, and ranks that do not belong together: refused before anything is hurt."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.lifecycle.status import read_status
from tests.support.fixtures.runs import plain, ranks, rows, run, start
from tests.support.waiting import wait_for, wait_for_rows

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]


def test_orphans_of_a_killed_launcher_keep_their_run_until_they_end(recipe_file: RecipeFile, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    path = recipe_file(**{"schedule.steps": 100_000, "checkpoint.keep": 9, "logging.evaluate_every": 1000})
    again = ["--config", path, "--run_dir", folder, "--resume", "auto"]
    launcher = start(ranks(2, *again), tmp_path)
    try:
        wait_for_rows(folder, 5, launcher)
        orphans = psutil.Process(launcher.pid).children()
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
        pid = json.loads((folder / "owner.json").read_text())["process"]["pid"]
        main_rank = next(each for each in orphans if each.pid == pid)

        refused = run(ranks(2, *again), tmp_path)
        (line,) = (line for line in refused.stderr.splitlines() if line.startswith("electra-scale: error"))
        assert refused.returncode == 2, refused.stderr
        assert f"{folder} is in use by process {main_rank.pid} on " in line
        assert f"kill {main_rank.pid} on" in line
        # A start that fails even earlier does not touch the status of the run that lives.
        wrong = run(plain(*again, "--data.store", tmp_path / "nowhere"), tmp_path)
        assert wrong.returncode == 2, wrong.stderr
        assert read_status(folder).state == "running"

        main_rank.terminate()
        wait_for(lambda: not (folder / "owner.json").exists())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    assert read_status(folder).state == "stopped"
    tags = checkpoint.complete_tags(folder / "checkpoints")
    assert [checksums.problem(folder / "checkpoints" / tag) for tag in tags] == [None] * len(tags)
    assert [row["step"] for row in rows(folder)] == list(range(1, len(rows(folder)) + 1))
    assert not list(folder.glob("owner*"))


def test_a_save_lists_only_what_it_has_written(recipe_file: RecipeFile, tmp_path: Path) -> None:
    """Not what an orphan, or a start on more ranks that was killed in its save, has left under the same name."""
    folder = tmp_path / "run"
    left = folder / "checkpoints/step-00000004"
    path = recipe_file(**{"schedule.steps": 2, "checkpoint.keep": 9, "logging.evaluate_every": 1000})
    process = start(plain("--config", path, "--run_dir", folder, "--resume", "auto"), tmp_path)
    wait_for((folder / "metrics.jsonl").exists, process)
    left.mkdir(parents=True)
    for rank in (0, 1, 7):
        (left / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"of another save")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    names = checksums.read_list(left).keys()
    assert [name for name in names if "rank_1_" in name or "rank_7_" in name] == []
    assert checksums.problem(left) is None
    assert {path.name for path in left.iterdir()} == {*names, checksums.LIST}


def test_a_rank_on_another_store_is_refused_before_anything_is_written(
    recipe_file: RecipeFile, store: Path, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(store, other)
    manifest = (other / "manifest.json").read_bytes()
    # Labels are not part of the fingerprint, and yet decide what a mixture draws.
    (other / "manifest.json").write_bytes(manifest.replace(b'"source": "', b'"source": "other-'))
    more = ["--", "--data.store", other, "--seed", "4"]
    arguments = ["1", "--config", recipe_file(), "--run_dir", tmp_path / "run", *more]
    result = run(ranks(2, *arguments, module="tests.support.programs.odd_rank"), tmp_path)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("electra-scale: error"))
    assert result.returncode == 2, result.stderr
    assert "the ranks do not agree: store is manifest " in line
    assert "recipe's seed is 4 on rank 1 (" in line
    assert "but 3 on rank 0 (" in line
    assert not (tmp_path / "run").exists()
