"""The discriminator's loss over some steps in one precision, for benchmarks.gpu.check; on its last line as JSON.

The text is made up, but not without structure: each token is one of four that follow the one before, so that there is
something to be learned within a hundred steps.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.training.step import FIRST_ORDINARY, engine_of, made_up_batch
from electra_scale.corruption.corruption import Clock
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.train.engine.world import join_world, leave_world

VOCABULARY, FOLLOWERS = 512, 4


def chain(like: Tensor, step: int) -> Tensor:
    """Ids (B,S) in which each token has ``FOLLOWERS`` that may follow it."""
    table = torch.randint(
        FIRST_ORDINARY, VOCABULARY, (VOCABULARY, FOLLOWERS), generator=torch.Generator().manual_seed(1)
    )
    choice = torch.randint(FOLLOWERS, like.shape, generator=torch.Generator().manual_seed(2 + step))
    ids = like.clone()
    for place in range(1, like.shape[1]):
        ids[:, place] = table[ids[:, place - 1], choice[:, place]]
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description="A loss curve in one precision.")
    parser.add_argument("precision", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--without-device", action="store_true")
    options = parser.parse_args()
    given = ["--config", "tiny", "--optimizer.generator_rate", "1.0", "--model.cooccurrence_embeddings", "false"]
    recipe, _ = parse_recipe(recipe_parser("curve"), [*given, "--model.unigram_bias", "false"])
    recipe.batch = replace(recipe.batch, most_per_device=recipe.batch.global_batch)
    world = join_world()
    engine = engine_of(recipe, VOCABULARY, world, "zero2_bf16" if options.precision == "bf16" else "zero2")
    losses = []
    for number in range(options.steps):
        batch = made_up_batch(recipe, VOCABULARY, number)
        batch = replace(batch, ids=chain(batch.ids, number))
        counts = {"masked": float(len(batch.masked)), "tokens": float(batch.ids.numel())}
        on_device = {name: torch.full((), value, device=world.device) for name, value in counts.items()}
        layout = Layout.of(batch.segment).to(world.device)
        statistics = engine.forward_backward(batch.to(world.device), layout, Clock(0, 0, "joint", 0), on_device, False)
        engine.step(recipe.optimizer.learning_rate)
        losses.append(
            float(next(one.value for one in statistics if one.name == "loss/discriminator")) / counts["tokens"]
        )
    leave_world()
    print(json.dumps({"losses": losses}))


if __name__ == "__main__":
    main()
