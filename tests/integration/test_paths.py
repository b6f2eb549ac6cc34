"""A path is a path, whatever characters its names have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from electra_scale.cli import main
from electra_scale.train.lifecycle.status import read_status
from tests.support.fixtures.runs import plain, ranks, rows, run, write_recipe

pytestmark = pytest.mark.slow

NAME = "r[1] *?#%+(a)'{b}\\ü"
"""Characters that mean something in patterns, regular expressions, URLs, shells or formats."""


def test_a_run_resumes_on_any_ranks_and_can_be_exported_and_probed(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    shutil.copytree(store, folder / "store")
    recipe = write_recipe(folder, folder / "store", **{"schedule.steps": 2, "logging.evaluate_every": 1000})
    arguments = ["--config", recipe, "--run_dir", folder / "run", "--resume", "auto"]
    arguments += ["--data.cache.folder", folder / "cache", "--checkpoint.upload", folder / "copy", "--schedule.steps"]
    commands = (plain(*arguments, "2"), plain(*arguments, "3"), ranks(2, *arguments, "4"))
    for number, command in enumerate(commands):
        result = run(command, tmp_path)
        assert result.returncode == 0, result.stderr
        assert read_status(folder / "run").step == 8 + number
    assert any((folder / "cache").rglob("*.arrow"))
    assert (folder / "copy/checkpoints/step-00000010/run_state.json").is_file()
    assert "is converted for 2" in (folder / "run/log.txt").read_text()
    assert [row["step"] for row in rows(folder / "run")] == list(range(1, 11))
    assert main(["export", str(folder / "run"), str(folder / "export[1]")]) == 0
    assert main(["try", str(folder / "export[1]")]) == 0
    assert main(["probe", str(folder / "run"), "--samples", "4", "--draws", "2"]) == 0
    assert (folder / "run/probe/step-00000010.json").is_file()
