"""1, 2 and 4 ranks of this machine, over gloo on loopback, beside what the model of benchmarks.scaling says of them.

python -m benchmarks.scaling --check

Each rank has one thread and the same rows. Computing is measured on one rank, the network by all-reduces between two.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import replace
from subprocess import PIPE
from typing import Any

from benchmarks.measure import table
from benchmarks.training.start_ranks import end_ranks, start_ranks
from benchmarks.training.step_on_paper import Network, Work, step_of

RANKS = (1, 2, 4)
_WARM_UP = 3
_PROBES = 20


def check(recipe: str, vocabulary: int, rows: int, steps: int) -> dict[str, Any]:
    """Measured and expected seconds of a step, and the table printed."""
    cores = len(os.sched_getaffinity(0))
    found = {ranks: _measure(ranks, recipe, vocabulary, rows, steps) for ranks in RANKS}
    alone, pair = found[1], found[2]
    # A hop is half of an all-reduce of one number between two ranks, which send each byte once then.
    latency = pair["small"] / 2
    bandwidth = pair["large_bytes"] / max(pair["large"] - pair["small"], 1e-9)
    network = Network(latency, bandwidth, bandwidth, max(RANKS))
    lines, figures = [], {}
    for ranks, own in found.items():
        # More ranks than cores take turns.
        computing = alone["computing"] * max(1.0, ranks / cores)
        work = Work(computing / rows, int(own["parameters"]), int(own["element"]))
        expected = step_of(work, network, ranks, rows, 1)
        seconds, efficiency = expected.seconds, alone["least"] / expected.seconds
        measured = alone["least"] / own["least"]
        figures[str(ranks)] = own | {"expected": seconds, "expected_efficiency": efficiency, "efficiency": measured}
        lines.append(
            [
                str(ranks),
                f"{1000 * own['least']:,.1f} ({1000 * own['median']:,.1f})",
                f"{1000 * seconds:,.1f}",
                f"{1000 * own['exchange']:,.1f}",
                f"{1000 * expected.exchange:,.1f}",
                f"{measured:.2f}",
                f"{efficiency:.2f}",
            ]
        )
    print(
        f"{recipe}, {rows} rows a rank, one thread each, {cores} cores, load {os.getloadavg()[0]:.1f}, {steps} steps; "
        f"loopback: {1e6 * latency:,.0f} us a hop, {bandwidth / 1e9:.2f} GB/s"
    )
    titles = ("ms, least (median)", "expected", "exchange ms", "expected", "efficiency", "expected")
    print(table(["ranks", *titles], lines))
    return {"cores": cores, "latency": latency, "bandwidth": bandwidth, "ranks": figures}


def _measure(ranks: int, recipe: str, vocabulary: int, rows: int, steps: int) -> dict[str, float]:
    given = [recipe, str(vocabulary), str(rows), str(steps)]
    environment = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = ["-m", "benchmarks.training.scaling_check", *given]
    processes = start_ranks(ranks, command, output=PIPE, environment=environment)
    try:
        printed = [process.communicate(timeout=1200)[0] for process in processes]
    finally:
        end_ranks(processes)
    if any(process.returncode for process in processes):
        sys.exit(f"{ranks} ranks of {' '.join(command)} failed")
    found: dict[str, float] = json.loads(printed[0].decode().splitlines()[-1])
    return found


def measured_rank(name: str, vocabulary: int, rows: int, steps: int) -> dict[str, float]:
    """What one rank measures of its steps, and of all-reduces of one number and of all its gradients."""
    import torch

    from benchmarks.training.step import engine_of, made_up_batch, timed_step
    from electra_scale.recipe.parse import parse_recipe, recipe_parser
    from electra_scale.train.engine.world import join_world, leave_world

    recipe, _ = parse_recipe(recipe_parser("scaling_check"), ["--config", name])
    world = join_world()
    recipe.batch = replace(recipe.batch, global_batch=rows * world.size, most_per_device=rows)
    engine = engine_of(recipe, vocabulary, world)
    recipe.batch = replace(recipe.batch, global_batch=rows)
    seconds, exchange = [], []
    for step in range(_WARM_UP + steps):
        batch = made_up_batch(recipe, vocabulary, step * world.size + world.rank)
        world.barrier()
        world.stopwatch.read()
        duration = timed_step(engine, batch, recipe)
        parts = world.stopwatch.read()
        if step >= _WARM_UP:
            seconds.append(duration)
            exchange.append(parts["exchange"])
    parameters = sum(parameter.numel() for parameter in engine.module.electra.parameters())
    numbers = {"small": torch.zeros(1), "large": torch.zeros(parameters)}
    least = {"small": float("inf"), "large": float("inf")}
    for _ in range(_PROBES):
        for size, tensor in numbers.items():
            world.barrier()
            began = time.perf_counter()
            world.sum(tensor)
            least[size] = min(least[size], time.perf_counter() - began)
    engine.close()
    leave_world()
    quickest = seconds.index(min(seconds))
    return {
        "least": seconds[quickest],
        "median": statistics.median(seconds),
        "exchange": exchange[quickest],
        "computing": seconds[quickest] - exchange[quickest],
        "parameters": parameters,
        "element": 4,
        "large_bytes": 4.0 * parameters,
        **least,
    }


if __name__ == "__main__":
    given, *numbers = sys.argv[1:]
    print(json.dumps(measured_rank(given, *map(int, numbers))), flush=True)
