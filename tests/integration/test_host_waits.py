"""How often a step makes the host wait for its device, and how often ranks exchange something."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.fixtures.runs import environment, plain, run

pytestmark = pytest.mark.slow

PROGRAM = "tests.support.programs.counted_steps"
SHORT = {
    "generator_warmup.steps": 0,
    "schedule.steps": 4,
    "schedule.warmup_steps": 1,
    "logging.every": 3,
    "logging.probe_every": 0,
}


def counted(file: Path) -> dict[int, dict[str, Any]]:
    """What each step that is not logged has counted, by its number, without the first, in which things are set up."""
    rows = [json.loads(line) for line in file.with_name(f"{file.name}.0").read_text().splitlines()]
    return {row["step"]: row for row in rows if row["step"] > 1 and not row["logged"]}


def test_a_step_that_is_not_logged_reads_its_statistics_and_norms_at_once_and_nothing_else(
    recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    arguments = ["--config", recipe_file(**SHORT), "--run_dir", tmp_path / "run"]
    result = run(plain(tmp_path / "counts", *arguments, module=PROGRAM), tmp_path)
    assert result.returncode == 0, result.stderr
    found = counted(tmp_path / "counts")
    assert list(found) == [2]
    assert found[2]["reads"] == {"cpu in train/global_step.py:_gradient": 1}
    assert found[2]["norms"] == {"train/engine/engine.py:gather_norms": 1}
    exchanged = found[2]["collectives"]
    # Counts and votes between hosts; statistics and the sampling head's gradient between devices.
    ours = {name: number for name, number in exchanged.items() if "world.py" in name}
    assert ours == {"all_reduce in train/engine/world.py:sum_of": 1, "all_reduce in train/engine/world.py:sum": 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device beside the suite's environment")
def test_on_a_gpu_nothing_else_waits(recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    variables = {name: value for name, value in environment().items() if name != "DS_ACCELERATOR"}
    arguments = ["--config", str(recipe_file(**SHORT)), "--run_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", PROGRAM, str(tmp_path / "counts"), *arguments]
    subprocess.run(command, env=variables, check=True, timeout=600)
    waits = [row["waits"] for row in counted(tmp_path / "counts").values()]
    assert waits
    assert max(waits) <= 1
