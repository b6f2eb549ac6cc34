"""How near a training step is to what the machine's matrix products reach, and where the rest of its time goes.

python -m benchmarks.training.ceiling --recipe recipes/small.yaml --rows 8
python -m benchmarks.training.ceiling --recipe recipes/base.yaml --rows 2 --set data.sequence_length=512

See docs/performance.md, Share of the peak.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import pick_cores, spread, table, write_figures
from benchmarks.training.step import engine_of, made_up_batch, timed_step
from electra_scale.model.cost import training_flops
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.phases import trained_parts
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.engine.world import join_world, leave_world

WARM_UP_STEPS = 2
ROUNDS = 7
"""Times that each product is timed alone; the least counts."""

SQUARE = 2048
"""Side of the square product beside which those of the model are seen."""

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")

KINDS = {
    "products": PRODUCTS,
    "attention": ("scaled_dot_product", "flash_attention"),
    "normalisation": ("layer_norm", "rms_norm"),
    "activation": ("gelu", "silu", "tanh"),
    "dropout and random numbers": ("dropout", "bernoulli", "uniform", "random", "exponential"),
    "optimizer": ("adam", "foreach", "linalg_vector_norm"),
    "scores of the vocabulary": ("exp", "softmax", "logsumexp", "amax", "max", "cumsum", "searchsorted"),
    "rows chosen and put back": ("embedding", "index", "gather", "scatter", "nonzero", "sort"),
    "copies, sums and products of elements": (
        "copy",
        "fill",
        "zero",
        "add",
        "mul",
        "sub",
        "div",
        "sum",
        "cat",
        "where",
    ),
}
"""Operations with one of these in their names, by what they are for; the first that fits."""

NATIVE = {
    "_Drop": "dropout and random numbers",
    "_DropBackward": "dropout and random numbers",
    "_Pass": "scores of the vocabulary",
}
"""Functions of ours that call native code, which the profiler sees as time of their own."""


@dataclass(frozen=True)
class Product:
    """A matrix product as a step calls it: the operation, and each matrix's sizes, strides and type."""

    name: str
    operands: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        (*batch, rows, inner), (*_, columns) = self.operands[-2][0], self.operands[-1][0]
        return 2.0 * rows * inner * columns * (batch[0] if batch else 1)

    def seconds(self) -> float:
        """The least of ROUNDS calls on new matrices, after one that is not counted."""
        function = getattr(torch, self.name)
        made = []
        for size, stride, dtype in self.operands:
            # Numbers may be shared, as those of an expanded row are.
            held = 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
            made.append(torch.randn(held).to(dtype).as_strided(size, stride))
        return min(timed(lambda: function(*made)) for _ in range(ROUNDS + 1))


class Products(TorchDispatchMode):
    """Counts the matrix products that are called while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Product] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in PRODUCTS:
            operands = tuple((tuple(one.shape), one.stride(), one.dtype) for one in arguments)
            self.found[Product(name, operands)] += 1
        return function(*arguments, **(options or {}))


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def kind_of(name: str) -> str:
    """What an operation of the profiler is for."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "the rest")


def parts_of_a_step(step: Callable[[], Any]) -> dict[str, float]:
    """Seconds of one step by kind of operation, as the profiler sees them on the thread that calls them."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        whole = timed(step)
    seconds: dict[str, float] = defaultdict(float)
    for one in found.key_averages():
        if one.key.startswith("aten::") or one.key in NATIVE:
            seconds[NATIVE.get(one.key) or kind_of(one.key)] += one.self_cpu_time_total / 1e6
    seconds["outside operations: Python, autograd, DeepSpeed"] = max(0.0, whole - sum(seconds.values()))
    return dict(seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A step beside its own matrix products, called alone.")
    parser.add_argument("--recipe", default="recipes/small.yaml", help="recipe whose sizes are measured (small)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of it that are changed")
    parser.add_argument("--deepspeed", default="zero2", help="DeepSpeed JSON of the shipped ones (zero2)")
    parser.add_argument("--vocabulary", type=int, default=30522, help="tokens V (30522)")
    parser.add_argument("--rows", type=int, default=8, help="rows of the step's one micro-batch (8)")
    parser.add_argument("--threads", type=int, default=2, help="threads (2)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (10)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/ceiling.json"), help="JSON with every figure")
    return parser.parse_args()


def recipe_of(args: argparse.Namespace) -> Recipe:
    changed = [part for pair in args.set for part in (f"--{pair.partition('=')[0]}", pair.partition("=")[2])]
    rows = ["--batch.global_batch", str(args.rows), "--batch.most_per_device", str(args.rows)]
    return parse_recipe(recipe_parser("ceiling.py"), ["--config", args.recipe, *changed, *rows])[0]


def main() -> None:
    args = arguments()
    os.sched_setaffinity(0, pick_cores(args.threads))
    recipe = recipe_of(args)
    world = join_world()
    torch.set_num_threads(args.threads)
    engine = engine_of(recipe, args.vocabulary, world, args.deepspeed)
    number = 0

    def step() -> float:
        nonlocal number
        number += 1
        return timed_step(engine, made_up_batch(recipe, args.vocabulary, number), recipe)

    for _ in range(WARM_UP_STEPS):
        step()
    with Products() as products:
        step()
    dtype = torch.bfloat16 if "bf16" in args.deepspeed else torch.float32
    square = torch.randn(SQUARE, SQUARE).to(dtype)
    steps, alone, squares = [], [], []
    # Taking turns, so that a machine that slows down does so for all of them.
    for _ in range(args.steps):
        steps.append(step())
        squares.append(min(timed(lambda: square @ square) for _ in range(2)))
    for _ in range(2):
        alone.append(sum(count * one.seconds() for one, count in products.found.items()))
    parts = parts_of_a_step(step)
    leave_world()
    positions = recipe.data.sequence_length
    networks, trained = recipe.networks(args.vocabulary), trained_parts(recipe, "joint")
    counted = training_flops(networks, positions, recipe.data.mask_share, True, True, trained)
    counted *= args.rows * positions
    called = sum(count * one.operations for one, count in products.found.items())
    rates = {
        "counted operations of a step": counted / min(steps),
        "its matrix products, alone": called / min(alone),
        f"a product of {SQUARE} x {SQUARE}": 2.0 * SQUARE**3 / min(squares),
    }
    print(
        f"{args.recipe}: {args.rows} x {positions}, V = {args.vocabulary:,}, {args.threads} threads, {dtype}; the "
        f"least of {args.steps} steps {min(steps):.3f} s, median {spread(steps)['median']:.3f} s"
    )
    best = rates["its matrix products, alone"]
    shown = [[name, f"{rate / 1e9:,.0f}", f"{rate / best:.0%}"] for name, rate in rates.items()]
    print(table(["what", "GFLOP/s", "of the products alone"], shown))
    whole = sum(parts.values())
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    print(table(["part of a profiled step", "s", "share"], [[k, f"{s:.3f}", f"{s / whole:.1%}"] for k, s in ordered]))
    write_figures(
        args,
        steps=spread(steps),
        products_alone=spread(alone),
        flops={"counted": counted, "of_products": called},
        rates=rates,
        parts=parts,
    )


if __name__ == "__main__":
    main()
