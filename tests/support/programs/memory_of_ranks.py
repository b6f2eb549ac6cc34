"""One rank that measures what training steps hold and send, and writes it into a file.

``python -m tests.support.programs.memory_of_ranks FOLDER``: for each of CASES.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor

from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.deepspeed_json import read_deepspeed_json, resolve_deepspeed_json
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World, join_world, leave_world
from tests.support.fixtures.runs import ROOT
from tests.support.instruments.live_memory import LiveMemory
from tests.unit.plan.conftest import (
    CLOCK,
    ROWS,
    attend_as_a_device,
    batch_of,
    counts_of,
    frozen_recipe_of,
    module_of,
    recipe_of,
    trained_recipe_of,
)


@dataclass(frozen=True)
class Case:
    """A recipe with a DeepSpeed JSON; ``bucket`` numbers in its buffer for gradients, unless as shipped; ``rows`` in a
    micro-batch; ``frozen``, a key of FROZEN, what does not train; or the recipe as it is ``shipped``."""

    recipe: str
    deepspeed: str
    accumulation: int
    bucket: int | None = None
    rows: int = ROWS
    fused: bool = True
    frozen: str | None = None
    shipped: bool = False

    def made_recipe(self) -> Recipe:
        if self.shipped:
            return recipe_of(self.recipe)
        return trained_recipe_of(self.recipe) if self.frozen is None else frozen_recipe_of(self.recipe, self.frozen)

    def deepspeed_json(self) -> dict[str, Any]:
        content = read_deepspeed_json(str(ROOT / "ds_configs" / self.deepspeed))
        if self.bucket is not None:
            content["zero_optimization"]["reduce_bucket_size"] = self.bucket
        content["optimizer"]["params"]["fused"] = self.fused
        return content


CASES = {
    "tiny, fp32": Case("tiny.yaml", "zero2.json", accumulation=2),
    "small, bf16": Case("small.yaml", "zero2_bf16.json", accumulation=1),
    "small, small buckets": Case(
        "small.yaml", "zero2_bf16.json", accumulation=2, bucket=3_000_000, rows=1, fused=False
    ),
    "tiny as shipped, generator frozen": Case("tiny.yaml", "zero2.json", accumulation=2, shipped=True),
    "tiny, generator and one more part frozen": Case(
        "tiny.yaml", "zero2_bf16.json", accumulation=2, frozen="generator rate 0, discriminator's head frozen"
    ),
    "tiny, stage 1, bf16": Case("tiny.yaml", "zero1_bf16.json", accumulation=2),
}


@dataclass
class Held:
    """Bytes: between steps, at most in a micro-batch and in an update, and given to collectives in a step."""

    between: int = 0
    micro_batch: int = 0
    update: int = 0
    all_reduced: int = 0
    other_reductions: int = 0
    gathered: int = 0


def main(folder: Path) -> None:
    sent: dict[str, int] = {}
    attend_as_a_device(pytest.MonkeyPatch())
    # DeepSpeed takes hold of some of them when it starts.
    _count_bytes(sent)
    world = join_world()
    found = {}
    for name, case in CASES.items():
        recipe = case.made_recipe()
        # An engine takes the weights of its module over.
        module = copy.deepcopy(module_of(recipe))
        with LiveMemory() as live:
            for parameter in module.parameters():
                live.follow(parameter)
            found[name] = asdict(_measure(case, recipe, module, world, live, sent))
    if world.main:
        (folder / "memory.json").write_text(json.dumps(found))
    leave_world()


def _measure(
    case: Case, recipe: Recipe, module: PretrainModule, world: World, live: LiveMemory, sent: dict[str, int]
) -> Held:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    settings = (recipe.optimizer, 1e-3, case.rows, case.accumulation, world.size, parameters)
    content = resolve_deepspeed_json(case.deepspeed_json(), *settings)
    batch = batch_of(recipe, case.rows)
    counts = counts_of(batch)
    engine = Engine(module, content, recipe.optimizer, world)
    held = Held()
    # The moments are there after the first step.
    for _ in range(2):
        sent.clear()
        held.micro_batch = 0
        for _ in range(case.accumulation):
            live.most = live.now
            # Each micro-batch has a layout of its own, which holds its masks.
            # With details, as in a logged step, where the pass over the vocabulary is the peak.
            logged = case.shipped or case.frozen is not None or case.deepspeed == "zero1_bf16.json"
            engine.forward_backward(batch, Layout.of(batch.segment), CLOCK, counts, logged)
            held.micro_batch = max(held.micro_batch, live.most)
        live.most = live.now
        engine.step(1e-3)
        held.update, held.between = live.most, live.now
    engine.close()
    held.all_reduced = sent.get("all_reduce", 0)
    held.other_reductions = sent.get("reduce", 0) + sent.get("reduce_scatter_tensor", 0)
    held.gathered = sent.get("all_gather_into_tensor", 0)
    return held


def _count_bytes(sent: dict[str, int]) -> None:
    """Have torch's collectives add up the bytes that they are given."""
    for kind in ("all_reduce", "reduce", "all_gather_into_tensor", "reduce_scatter_tensor"):
        collective = getattr(dist, kind)

        def counted(*arguments: Any, _kind: str = kind, _do: Any = collective, **options: Any) -> Any:
            # The first one is the whole: what is summed, or what all parts are gathered into.
            tensor = next(value for value in (*arguments, *options.values()) if isinstance(value, Tensor))
            sent[_kind] = sent.get(_kind, 0) + tensor.nbytes
            return _do(*arguments, **options)

        setattr(dist, kind, counted)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
