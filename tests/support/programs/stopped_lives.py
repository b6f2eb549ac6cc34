"""A recipe trained once straight and once in many lives, each stopped at its n-th chance; started on each rank.

``python -m tests.support.programs.stopped_lives RECIPE FOLDER POLLS SPOILED``: the runs are FOLDER/straight and
FOLDER/lives. A poll is a chance to stop: each step, each micro-batch of an evaluation, each sample of a probe; the
last rank alone is asked.
At the steps SPOILED (``3,9`` or nothing) that rank's gradient is not a number, at the one after each its loss neither.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.engine.engine import consolidated_weights
from electra_scale.train.engine.world import World, join_world, leave_world
from electra_scale.train.global_step import GlobalSteps
from electra_scale.train.lifecycle.status import read_status
from electra_scale.train.lifecycle.stop import StopRequests
from electra_scale.train.loop import train


class AtPoll(StopRequests):
    """Asks for a stop at the n-th look."""

    def __init__(self, polls: int) -> None:
        super().__init__()
        self.left = polls

    def votes(self) -> list[float]:
        self.left -= 1
        return [float(self.left <= 0), 0.0]

    def asked(self) -> bool:
        return self.left <= 0


def spoil(steps: set[int], rank: int) -> None:
    """Make the last rank's numbers bad at some steps."""
    gradient, forward = GlobalSteps._gradient, PretrainModule.forward
    now = [0]

    def watched(self: GlobalSteps, step: int, *arguments: Any) -> Any:
        now[0] = step + 1
        return gradient(self, step, *arguments)

    def spoiled(self: PretrainModule, *arguments: Any) -> Any:
        total, statistics = forward(self, *arguments)
        if now[0] in steps:
            total = total * torch.nan
        if now[0] - 1 in steps:
            for one in statistics:
                if one.name == "loss/generator":
                    one.value = one.value * torch.nan
        return total, statistics

    if rank:
        PretrainModule.forward = spoiled
    GlobalSteps._gradient = watched


def main(recipe_file: str, folder: Path, polls: int, spoiled: str) -> None:
    world = join_world()
    spoil({int(step) for step in spoiled.split(",") if step}, world.rank)

    def recipe(name: str) -> Recipe:
        return parse_recipe(recipe_parser("test"), ["--config", recipe_file, "--run_dir", str(folder / name)])[0]

    train(recipe("straight"), False, world)
    lives = live(recipe("lives"), world, polls)
    if world.main:
        (straight, lived) = (consolidated_weights(folder / name / "checkpoints", "step-00000018") for name in RUNS)
        same = straight.keys() == lived.keys() and all(torch.equal(straight[name], lived[name]) for name in straight)
        print(f"lives={lives} same={same}", flush=True)
    leave_world()


RUNS = ("straight", "lives")


def live(recipe: Recipe, world: World, polls: int) -> int:
    """Lives until the run is finished."""
    for life in range(1, 100):
        train(recipe, True, world, AtPoll(polls if world.rank == world.size - 1 else 10**9))
        world.barrier()
        if read_status(Path(recipe.run_dir)).finished:
            return life
    raise AssertionError("the run never ends")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
