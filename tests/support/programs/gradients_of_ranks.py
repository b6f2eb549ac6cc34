"""One rank that puts the gradient of one global batch, as ZeRO-2 has it before its update, into a file.

``python -m tests.support.programs.gradients_of_ranks FOLDER MICRO_BATCH...``: for every sampler and each micro-batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_grad

from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.deepspeed_json import resolve_deepspeed_json
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import join_world, leave_world
from tests.support.fixtures.runs import ROOT
from tests.unit.train.conftest import SAMPLERS, clock_of, make_loader, make_module

GLOBAL_BATCH = 32


def main(folder: Path, micro_batches: list[int]) -> None:
    world = join_world()
    share = GLOBAL_BATCH // world.size
    optimizer = AdamWSettings(clip=0.0)
    content = json.loads((ROOT / "ds_configs/zero2.json").read_text())
    for micro in micro_batches:
        for name, settings in SAMPLERS.items():
            module = make_module(settings)
            parameters = sum(parameter.numel() for parameter in module.parameters())
            resolved = resolve_deepspeed_json(content, optimizer, 1e-3, micro, share // micro, world.size, parameters)
            engine = Engine(module, resolved, optimizer, world)
            batch = make_loader(GLOBAL_BATCH, GLOBAL_BATCH).batch(0, world.rank * share, share, 0.3)
            local = torch.tensor([len(batch.masked), int((batch.segment >= 0).sum())], dtype=torch.float64)
            masked, tokens = world.sum(local).float()
            for part in batch.split(micro):
                counts = {"masked": masked, "tokens": tokens}
                engine.forward_backward(part, Layout.of(part.segment), clock_of(module), counts, True)
            found = {
                key: safe_get_full_grad(parameter).clone()
                for key, parameter in module.electra.named_parameters(prefix="electra")
            }
            for key, parameter in module.sampler.named_parameters(prefix="sampler"):
                found[key] = world.sum(parameter.grad.clone()) / world.size
            if world.main:
                torch.save(found, folder / f"{name}-{world.size}x{share // micro}x{micro}.pt")
            engine.close()
    leave_world()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]])
