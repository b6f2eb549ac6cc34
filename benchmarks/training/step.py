"""The whole training step with hp_loss beside electra, through DeepSpeed ZeRO in one process.

python -m benchmarks.training.step --recipe recipes/small.yaml --sequences 32 --out runs/bench/step-small.json

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measure import pick_cores, spread, table, write_figures
from electra_scale.corruption.corruption import Clock
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.deepspeed_json import read_deepspeed_json, resolve_deepspeed_json
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import build_module
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World, join_world, leave_world

SPECIAL = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
FIRST_ORDINARY = 5
WARM_UP_STEPS = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time training steps of several samplers, taking turns.")
    parser.add_argument("--recipe", default="recipes/small.yaml", help="recipe whose sizes are measured (small)")
    parser.add_argument("--deepspeed", default="zero2", help="DeepSpeed JSON of the shipped ones (zero2)")
    parser.add_argument("--vocabulary", type=int, default=30522, help="tokens V (30522)")
    parser.add_argument("--sequences", type=int, help="sequences of a step; unset: the recipe's global batch")
    parser.add_argument("--widths", type=int, nargs="+", default=[64], help="widths of hp_loss's head (64)")
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each contestant (20)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/step.json"), help="JSON with every figure")
    return parser.parse_args()


def made_up_batch(recipe: Recipe, vocabulary: int, step: int) -> Batch:
    """Full rows of random tokens, masked in the recipe's share."""
    generator = torch.Generator().manual_seed(step)
    size, length = recipe.batch.global_batch, recipe.data.sequence_length
    ids = torch.randint(FIRST_ORDINARY, vocabulary, (size, length), generator=generator)
    masked = torch.rand(size, length, generator=generator).flatten() < recipe.data.mask_share
    masked_at = masked.nonzero()[:, 0]
    shown = torch.rand(len(masked_at), generator=generator) < recipe.data.mask_token_share
    uniform = torch.rand(len(masked_at), generator=generator, dtype=torch.float64)
    return Batch(ids, torch.zeros(size, length, dtype=torch.int64), masked_at, shown, uniform)


def engine_of(recipe: Recipe, vocabulary: int, world: World, deepspeed_json: str = "zero2") -> Engine:
    """The engine that training would use, with a DeepSpeed JSON of the shipped ones."""
    config = recipe.networks(vocabulary)
    module = build_module(recipe, config, SPECIAL, "joint")
    micro, accumulation = batch_split(recipe.batch.global_batch, world.size, recipe.batch.most_per_device)
    resolved = resolve_deepspeed_json(
        read_deepspeed_json(deepspeed_json),
        recipe.optimizer,
        recipe.optimizer.learning_rate,
        micro,
        accumulation,
        world.size,
        sum(parameter.numel() for parameter in module.parameters()),
    )
    return Engine(module.to(world.device), resolved, recipe.optimizer, world)


def timed_step(engine: Engine, batch: Batch, recipe: Recipe) -> float:
    """Seconds of one step: micro-batches forward and backward, then the optimizer."""
    start = time.perf_counter()
    counts = {"masked": torch.tensor(float(len(batch.masked))), "tokens": torch.tensor(float(batch.ids.numel()))}
    for part in batch.split(recipe.batch.global_batch // engine.accumulation):
        engine.forward_backward(part, Layout.of(part.segment), Clock(0, 0, "joint", 0), counts, False)
    engine.step(recipe.optimizer.learning_rate)
    return time.perf_counter() - start


def main() -> None:
    args = arguments()
    os.sched_setaffinity(0, pick_cores(args.threads))
    torch.set_num_threads(args.threads)
    recipe, _ = parse_recipe(recipe_parser("step.py"), ["--config", args.recipe])
    if args.sequences is not None:
        recipe.batch = replace(recipe.batch, global_batch=args.sequences)
    world = join_world()
    torch.set_num_threads(args.threads)
    recipes: dict[str, Recipe] = {}
    recipes["electra"] = copy.deepcopy(recipe)
    recipes["electra"].corruption.sampler = "electra"
    for width in args.widths:
        recipes[f"hp_loss {width}"] = copy.deepcopy(recipe)
        recipes[f"hp_loss {width}"].corruption.sampler = "hp_loss"
        recipes[f"hp_loss {width}"].corruption.head.width = width
    engines = {label: engine_of(own, args.vocabulary, world, args.deepspeed) for label, own in recipes.items()}
    labels = list(engines)
    seconds: dict[str, list[float]] = {label: [] for label in engines}
    for step in range(WARM_UP_STEPS + args.steps):
        batch = made_up_batch(recipe, args.vocabulary, step)
        # Each step begins with another contestant, so that none always follows the same one.
        first = step % len(engines)
        for label in labels[first:] + labels[:first]:
            duration = timed_step(engines[label], batch, recipes[label])
            if step >= WARM_UP_STEPS:
                seconds[label].append(duration)
    leave_world()
    figures = {label: spread(values) for label, values in seconds.items()}
    electra = figures["electra"]["median"]
    for label, found in figures.items():
        pairs = zip(seconds[label], seconds["electra"], strict=True)
        found["of_electra_within_a_step"] = statistics.median(own / plain for own, plain in pairs)
    rows = [
        [
            label,
            f"{1000 * found['median']:,.1f} ({1000 * found['least']:,.1f} to {1000 * found['most']:,.1f})",
            f"{found['median'] / electra:.3f}",
            f"{found['of_electra_within_a_step']:.3f}",
        ]
        for label, found in figures.items()
    ]
    print(
        f"{args.recipe}: {recipe.batch.global_batch} x {recipe.data.sequence_length}, V = {args.vocabulary:,}, "
        f"{args.threads} threads, median of {args.steps}"
    )
    print(table(["sampler and width of its head", "ms a step", "of electra", "within a step"], rows))
    write_figures(args, figures=figures)


if __name__ == "__main__":
    main()
