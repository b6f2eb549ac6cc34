"""Processor seconds of a rank from the start of its process to the end of its first step, and what the parts took.

python -m benchmarks.training.start --config recipes/tiny.yaml --data.store STORE --run_dir FOLDER

Takes the arguments of electra_scale.pretrain, and ends after the step. See benchmarks/README.md.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from typing import Any
from unittest.mock import patch


def seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> int:
    # As pretrain has it until the run begins.
    gc.disable()
    marks = {"Python": seconds()}
    import electra_scale.recipe.parse

    marks["the recipe's parser"] = seconds()
    import torch

    marks[f"torch {torch.__version__}"] = seconds()
    import electra_scale.train.engine.world

    marks["DeepSpeed"] = seconds()
    import electra_scale.pretrain
    import electra_scale.train.loop as loop

    marks["the rest of our imports"] = seconds()
    set_first_weights, run = loop.set_first_weights, loop.GlobalSteps.run

    def first_weights(*arguments: Any) -> Any:
        marks["arguments, inputs, building the networks"] = seconds()
        found = set_first_weights(*arguments)
        marks["first weights"] = seconds()
        return found

    def first_step(*arguments: Any) -> Any:
        marks["engine, log, peak of the device"] = seconds()
        run(*arguments)
        marks["the first step"] = seconds()
        if os.environ.get("RANK", "0") == "0":
            before = 0.0
            for name, after in marks.items():
                print(f"{after - before:7.2f} s  {name}")
                before = after
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{before:7.2f} s in all, {len(sys.modules)} modules, {memory} MB", flush=True)
        os._exit(0)

    with patch.object(loop, "set_first_weights", first_weights), patch.object(loop.GlobalSteps, "run", first_step):
        return electra_scale.pretrain.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
