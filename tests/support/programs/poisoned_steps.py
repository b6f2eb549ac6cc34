"""Ranks that train a step with a gradient that is not finite on the last one of them, and a clean one after it.

``python -m tests.support.programs.poisoned_steps FOLDER``: for each of POISONS and each shipped DeepSpeed JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.deepspeed_json import read_deepspeed_json, resolve_deepspeed_json
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.train.engine import engine as engines
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World, join_world, leave_world
from tests.support.fixtures.runs import ROOT
from tests.unit.train.conftest import SAMPLERS, clock_of, make_loader, make_module

POISONS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
ROWS = 8


class Poisoned:
    """An engine, one of whose parameters gets ``value`` into its gradient on the last rank."""

    def __init__(self, file: str, world: World) -> None:
        self.world, self.value, self.scans = world, 0.0, 0
        module = make_module(SAMPLERS["electra"])
        optimizer = AdamWSettings()
        content = read_deepspeed_json(str(ROOT / "ds_configs" / file))
        parameters = sum(parameter.numel() for parameter in module.parameters())
        resolved = resolve_deepspeed_json(content, optimizer, 1e-3, ROWS, 1, world.size, parameters)
        self.engine = Engine(module, resolved, optimizer, world)
        parameter = list(module.electra.parameters())[-1]
        parameter.register_hook(self._poison)
        zero = self.engine._engine.optimizer
        scan = zero.has_overflow_partitioned_grads_serial

        def counted() -> Any:
            self.scans += 1
            return scan()

        zero.has_overflow_partitioned_grads_serial = counted

    def _poison(self, gradient: Tensor) -> Tensor:
        return gradient + self.value if self.world.rank == self.world.size - 1 else gradient

    def step(self, value: float) -> dict[str, Any]:
        """Train a step; whether there was an update, and whether weights changed."""
        self.value, share = value, ROWS
        module, before = self.engine.module, self.engine.fp32_state()
        batch = make_loader(ROWS * self.world.size, ROWS).batch(0, self.world.rank * share, share, 0.3)
        counts = {"masked": torch.tensor(10.0), "tokens": torch.tensor(100.0)}
        self.engine.forward_backward(batch, Layout.of(batch.segment), clock_of(module), counts, False)
        updated = self.engine.step(1e-3)
        after = self.engine.fp32_state()
        return {"updated": updated, "changed": any(not torch.equal(before[name], after[name]) for name in before)}


def main(folder: Path) -> None:
    world = join_world()
    found: dict[str, Any] = {}
    for scanned in (False, True):
        if scanned:
            # As in a DeepSpeed whose step does not look at the norm.
            engines._CHECKS_NORM = "nothing that it calls"
        for file in ("zero2.json", "zero2_bf16.json"):
            own = Poisoned(file, world)
            steps = {name: [own.step(value), own.step(0.0)] for name, value in POISONS.items()}
            found[f"{file}, scanned" if scanned else file] = {"steps": steps, "scans": own.scans}
            own.engine.close()
    (folder / f"{world.rank}.json").write_text(json.dumps(found))
    leave_world()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
