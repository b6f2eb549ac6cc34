"""Time and memory of a micro-batch against the length of its rows, beside the operations that plan counts.

python -m benchmarks.training.lengths --recipe modern-small --lengths 512 2048 8192

Each length has a process of its own, with one row of full length after the other until it has --tokens. See
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from benchmarks.measure import spread, table, write_figures
from benchmarks.training.step import SPECIAL, made_up_batch
from electra_scale.corruption.corruption import Clock
from electra_scale.data.batch import Batch
from electra_scale.model.architectures.modern_encoder import ModernEncoder, ModernLayer, rotation
from electra_scale.model.attention.layout import Layout
from electra_scale.model.attention.tokens import tokens_of
from electra_scale.model.cost import training_flops
from electra_scale.recipe.model import EncoderSize
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import PretrainModule, build_module

WARM_UP = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of a micro-batch against the length of its rows.")
    parser.add_argument("--recipe", default="modern-small", help="recipe of the modern architecture (modern-small)")
    parser.add_argument("--layers", type=int, default=6, help="layers of both networks (6)")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens V (4096)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--tokens", type=int, default=8192, help="of a micro-batch (8192)")
    parser.add_argument("--repeats", type=int, default=5, help="timed micro-batches of each length (5)")
    parser.add_argument("--bf16", action="store_true", help="in bf16, for processors that have instructions for it")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/lengths.json"))
    return parser.parse_args()


def resized(recipe: Recipe, layers: int, length: int, tokens: int) -> Recipe:
    """The recipe with fewer layers, and a micro-batch of full rows."""

    def size(one: EncoderSize) -> EncoderSize:
        return replace(one, layers=layers)

    model = replace(
        recipe.model,
        discriminator=size(recipe.model.discriminator),
        generator=size(recipe.model.generator),
        max_positions=length,
    )
    rows = max(1, tokens // length)
    return replace(
        recipe,
        model=model,
        data=replace(recipe.data, sequence_length=length),
        batch=replace(recipe.batch, global_batch=rows, most_per_device=rows),
    )


def micro_batch(module: PretrainModule, batch: Batch) -> float:
    """Processor seconds of forward and backward."""
    counts = {"masked": torch.tensor(float(len(batch.masked))), "tokens": torch.tensor(float(batch.ids.numel()))}
    start = time.process_time()
    loss, _ = module(batch, Layout.of(batch.segment), Clock(0, 0, "joint", 0), counts, 1.0, False)
    loss.backward()
    found = time.process_time() - start
    module.zero_grad()
    return found


def local_layer(module: PretrainModule, batch: Batch) -> float:
    """Processor seconds of forward and backward of the discriminator's first layer that has a window."""
    encoder = cast(ModernEncoder, module.electra.discriminator)
    layer = next(one for one in encoder.layers if isinstance(one, ModernLayer) and one.window is not None)
    dtype = layer.qkv.weight.dtype
    tokens = tokens_of(Layout.of(batch.segment), dtype, encoder.head_width, encoder.config, True)
    hidden: Tensor = torch.randn(*batch.ids.shape, layer.qkv.in_features, dtype=dtype, requires_grad=True)
    turn = rotation(tokens.positions, encoder.head_width, layer.theta)
    start = time.process_time()
    layer(hidden, tokens, turn).sum().backward()
    return time.process_time() - start


def measure(args: argparse.Namespace) -> dict[str, object]:
    """In a process of its own: times of one length, and by how much the process grew."""
    torch.set_num_threads(1)
    recipe, _ = parse_recipe(recipe_parser("lengths"), ["--config", args.recipe])
    recipe = resized(recipe, args.layers, args.measure, args.tokens)
    config = recipe.networks(args.vocabulary)
    module = build_module(recipe, config, SPECIAL, "joint")
    if args.bf16:
        module.electra.to(torch.bfloat16)
    batch = made_up_batch(recipe, args.vocabulary, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = [micro_batch(module, batch) for _ in range(WARM_UP + args.repeats)][WARM_UP:]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    local = [local_layer(module, batch) for _ in range(WARM_UP + args.repeats)][WARM_UP:]
    masked = len(batch.masked) / batch.ids.numel()
    return {
        "tokens": batch.ids.numel(),
        "whole": spread(times),
        "local": spread(local),
        "megabytes": grown / 1024,
        "flops": training_flops(config, args.measure, masked, joint=True),
    }


def main() -> None:
    args = arguments()
    if args.measure is not None:
        print(json.dumps(measure(args)))
        return
    found = {}
    for length in args.lengths:
        command = [sys.executable, "-m", "benchmarks.training.lengths", *sys.argv[1:], "--measure", str(length)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[length] = json.loads(result.stdout.splitlines()[-1])
        print(f"length {length}: measured", flush=True)
    first = found[args.lengths[0]]
    rows = []
    for length, one in found.items():
        least = one["whole"]["least"] / one["tokens"]
        of_first = least / (first["whole"]["least"] / first["tokens"])
        counted = one["flops"] / first["flops"]
        rows.append(
            [
                f"{length:,}",
                f"{least * 1e6:.1f}",
                f"{one['whole']['median'] / one['tokens'] * 1e6:.1f}",
                f"{of_first:.2f}",
                f"{counted:.2f}",
                f"{of_first / counted - 1:+.0%}",
                f"{one['local']['least'] / one['tokens'] * 1e6:.2f}",
                f"{one['megabytes'] * 1024 / one['tokens']:.1f}",
            ]
        )
    headings = (
        "length",
        "us a token, least",
        "median",
        "of the first",
        "counted operations",
        "beyond them",
        "a local layer, us a token",
        "KiB a token",
    )
    print(table(headings, rows))
    write_figures(args, lengths=found)


if __name__ == "__main__":
    main()
