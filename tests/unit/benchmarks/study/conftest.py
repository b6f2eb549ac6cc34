"""Recipes of seconds, and run folders as finished runs leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.study.arms import Study
from electra_scale.train.checkpoint import state as checkpoint
from tests.support.fixtures.runs import RECIPE


def write_arms(folder: Path, **objectives: dict[str, Any]) -> Path:
    """A folder of recipes: the tests' small one as base, and an arm for each objective."""
    folder.mkdir(parents=True, exist_ok=True)
    base = json.loads(json.dumps(RECIPE))
    base["corruption"] = {"sampler": "electra", "head": {"width": 16}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    for arm, objective in objectives.items():
        write_arm(folder, arm, corruption=objective)
    return folder


def write_arm(folder: Path, arm: str, **sections: dict[str, Any]) -> None:
    """An arm of these sections of a recipe."""
    (folder / f"{arm}.yaml").write_text(yaml.safe_dump(sections))


MASKED_ALONE: dict[str, dict[str, Any]] = {"task": {"kind": "mlm"}, "generator_warmup": {"steps": 0}}
"""Sections of an arm that is masked prediction from its first step to its last."""


def write_run(
    folder: Path, steps: int, columns: dict[str, Callable[[int], float | None]], phase: str = "joint"
) -> None:
    """A run folder as a finished run leaves it: a row a step, each column a function of the step, and a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": step, "phase": phase} | {name: column(step) for name, column in columns.items()}
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_checkpoint(folder, steps)


def write_checkpoint(folder: Path, step: int) -> None:
    """What shows that a run has reached a step."""
    state = checkpoint.RunState(step, "joint", 1, "tokenizer", {}, finished=True)
    (folder / "checkpoints" / checkpoint.tag_of(step)).mkdir(parents=True)
    checkpoint.finish(folder / "checkpoints", state, keep=1)


@pytest.fixture
def small(tmp_path: Path) -> Study:
    """A study of two arms and two seeds, of which nothing has been run."""
    recipes = write_arms(tmp_path / "recipes", electra={"sampler": "electra"}, hp_loss_own={"sampler": "hp_loss"})
    return Study(tmp_path / "out", recipes, ("electra", "hp_loss_own"), (0, 1), steps=40)
