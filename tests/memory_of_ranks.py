"""One rank that measures what a training step holds, and writes it into a file.

``python -m tests.memory_of_ranks FOLDER RECIPE DEEPSPEED_JSON PHASE ROWS ACCUMULATION REDUCE_BUCKET``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from electra_scale.train.deepspeed_json import read_deepspeed_json, resolve_deepspeed_json
from electra_scale.train.engine import Engine, join_world, leave_world
from electra_scale.train.module import GlobalCounts
from tests.live_memory import LiveMemory
from tests.runs import ROOT
from tests.unit.plan.conftest import batch_of, module_of, recipe_of


def main(folder: Path, name: str, deepspeed: str, phase: Any, rows: int, accumulation: int, bucket: int) -> None:
    world = join_world()
    recipe = recipe_of(name)
    module, batch = module_of(recipe, phase), batch_of(recipe, rows)
    content = read_deepspeed_json(str(ROOT / "ds_configs" / deepspeed))
    content["zero_optimization"]["reduce_bucket_size"] = bucket
    resolved = resolve_deepspeed_json(content, recipe.optimizer, 1e-3, rows, accumulation, world.size)
    counts = GlobalCounts(torch.tensor(float(len(batch.masked))), torch.tensor(float(batch.ids.numel())))
    moved: dict[str, int] = {}
    _count_bytes(moved)
    found: dict[str, Any] = {}
    with LiveMemory() as live:
        for parameter in module.parameters():
            live.follow(parameter)
        engine = Engine(module, resolved, recipe.optimizer, recipe.objective.head, world)
        for step in range(2):
            before = dict(moved)
            for number in range(accumulation):
                live.most = live.now
                engine.forward_backward(batch, counts, False)
                found[f"micro_{number}"] = live.most
            live.most = live.now
            engine.step(1e-3)
            found["step"] = live.most
            found["between"] = live.now
            if step:
                found["moved"] = {kind: size - before[kind] for kind, size in moved.items()}
    if world.main:
        (folder / "memory.json").write_text(json.dumps(found))
    leave_world()


def _count_bytes(moved: dict[str, int]) -> None:
    """Have torch's collectives add up the bytes that they are given."""
    for kind in ("all_reduce", "reduce", "all_gather_into_tensor", "reduce_scatter_tensor"):
        collective = getattr(dist, kind)

        def counted(tensor: torch.Tensor, *rest: Any, _kind: str = kind, _do: Any = collective, **options: Any) -> Any:
            moved[_kind] = moved.get(_kind, 0) + tensor.nbytes
            return _do(tensor, *rest, **options)

        setattr(dist, kind, counted)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], *(int(value) for value in sys.argv[5:8]))
