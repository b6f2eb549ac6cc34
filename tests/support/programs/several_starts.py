"""Starts of training one after the other: ``python -m tests.support.programs.several_starts FILE``.

The file has one JSON list of arguments a line, as ``electra_scale.pretrain`` takes them; the main rank prints a line
for each, an object with the ``error`` (and the exception's type, if it is not the user's) and what was ``printed``.
A line ``{"copy": RUN, "to": FOLDER, "step": N}`` copies a run folder, with its checkpoints up to a step.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.recipe.parse import parse_recipe, pretrain_parser
from electra_scale.train.checkpoint.state import step_of
from electra_scale.train.engine.world import World, join_world
from electra_scale.train.loop import train


def start(arguments: list[str], world: World) -> dict[str, str]:
    printed = io.StringIO()
    error = ""
    with contextlib.redirect_stdout(printed):
        try:
            recipe, options = parse_recipe(pretrain_parser(), arguments)
            train(recipe, options.resume == "auto", world)
        except UserError as refusal:
            error = str(refusal)
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
    return {"error": error, "printed": printed.getvalue()}


def copy(source: str, target: str, step: int) -> None:
    shutil.copytree(source, target)
    for checkpoint in Path(target, "checkpoints").glob("step-*"):
        if step_of(checkpoint.name) > step:
            shutil.rmtree(checkpoint)


def main(file: str) -> None:
    world = join_world()
    with open(file) as lines:
        for line in lines:
            order = json.loads(line)
            if isinstance(order, list):
                found = start(order, world)
                if world.main:
                    print(json.dumps(found), flush=True)
            elif world.main:
                copy(order["copy"], order["to"], order["step"])
            world.barrier()


if __name__ == "__main__":
    main(sys.argv[1])
