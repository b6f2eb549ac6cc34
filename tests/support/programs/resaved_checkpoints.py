"""Loads checkpoints and saves them again: ``python -m tests.support.programs.resaved_checkpoints TAG...``.

The recipe is ``recipe.yaml`` in the working folder, which names the run; the new checkpoints go into ``again``.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.engine.world import join_world, leave_world
from electra_scale.train.lifecycle.stop import StopRequests
from electra_scale.train.loop import Run


def main(tags: list[str]) -> None:
    world = join_world()
    held = contextlib.ExitStack()
    run = Run(recipe_of_run(Path("recipe.yaml")), True, world, StopRequests(), None, held)
    for tag in tags:
        state = checkpoint.read_state(run.folder.checkpoints, tag)
        plan = next(plan for plan in run.phases if plan.name == state.phase)
        engine = run._engine(run._module(plan.name, fresh=False), plan)
        run.checkpoints.load(engine, state)
        state.world_size = world.size
        run.checkpoints.folder = Path("again")
        run.checkpoints.save(engine, state)
        run.checkpoints.folder = run.folder.checkpoints
        engine.close()
    held.close()
    leave_world()


if __name__ == "__main__":
    main(sys.argv[1:])
