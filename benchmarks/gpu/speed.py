"""One case of benchmarks.gpu.check: whole steps of the product's own engine on one device, on its last line as JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch

from benchmarks.measure import spread
from benchmarks.training.step import engine_of, made_up_batch
from electra_scale.corruption.corruption import Clock
from electra_scale.data.batch import Batch
from electra_scale.model.attention.layout import Layout
from electra_scale.model.cost import training_flops
from electra_scale.monitor.hardware import peak_flops
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import join_world, leave_world

VOCABULARY = 30522
WARM_UP = 5


def step(engine: Engine, batch: Batch, recipe: Recipe, device: torch.device) -> None:
    """A micro-batch forward and backward, and the update."""
    counts = {"masked": float(len(batch.masked)), "tokens": float(batch.ids.numel())}
    on_device = {name: torch.full((), value, device=device) for name, value in counts.items()}
    layout = Layout.of(batch.segment).to(device)
    engine.forward_backward(batch.to(device), layout, Clock(0, 0, "joint", 0), on_device, False)
    engine.step(recipe.optimizer.learning_rate)


def timed(engine: Engine, recipe: Recipe, device: torch.device, seconds: float) -> list[float]:
    """Seconds of single steps; a synchronisation at the end of each is all that the device waits for."""
    batches = [made_up_batch(recipe, VOCABULARY, number) for number in range(4)]

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    found: list[float] = []
    began = time.monotonic()
    number = 0
    while number < WARM_UP + 3 or time.monotonic() - began < seconds:
        wait()
        start = time.perf_counter()
        step(engine, batches[number % len(batches)], recipe, device)
        wait()
        found.append(time.perf_counter() - start)
        number += 1
        if number == WARM_UP:
            began = time.monotonic()
    return found[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time steps of one case on one device.")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--sampler", required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--without-device", action="store_true")
    options = parser.parse_args()
    given = ["--config", options.recipe, "--corruption.sampler", options.sampler]
    given += ["--data.sequence_length", str(options.length), "--model.compile", str(options.compile).lower()]
    if options.layers is not None:
        given += [f"--model.{name}.layers={options.layers}" for name in ("generator", "discriminator")]
    recipe, _ = parse_recipe(recipe_parser("speed"), given)
    world = join_world()
    device = world.device
    rows = options.rows or recipe.batch.most_per_device
    while True:
        recipe.batch = replace(recipe.batch, global_batch=rows, most_per_device=rows)
        try:
            engine = engine_of(recipe, VOCABULARY, world, "zero2" if options.without_device else "zero2_bf16")
            seconds = timed(engine, recipe, device, options.seconds)
            break
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
            rows //= 2
            torch.cuda.empty_cache()
    leave_world()
    tokens = rows * options.length
    flops = training_flops(recipe.networks(VOCABULARY), options.length, recipe.data.mask_share, joint=True)
    peak, _ = peak_flops(device, torch.float32 if options.without_device else torch.bfloat16)
    median = statistics.median(seconds)
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    print(
        json.dumps(
            {
                "rows": rows,
                "steps": len(seconds),
                "tokens_per_second": spread([tokens / one for one in seconds]),
                "mfu": tokens / median * flops / peak,
                "peak_tflops": peak / 1e12,
                "gigabytes": memory,
            }
        )
    )


if __name__ == "__main__":
    main()
