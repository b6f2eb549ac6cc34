"""What a checkpoint costs: the stall of a save, its checksums, uploads beside it, resume, other numbers of ranks.

python -m benchmarks.training.checkpoint --recipe recipes/tiny.yaml --out runs/bench/checkpoint.json

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import RESULT, report, seconds_table, spread, write_figures
from benchmarks.training.start_ranks import start_ranks
from benchmarks.training.step import engine_of, made_up_batch
from electra_scale.corruption.corruption import Clock
from electra_scale.model.attention.layout import Layout
from electra_scale.recipe.batch import batch_split
from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState, complete_tags, tag_of
from electra_scale.train.checkpointer import Checkpointer
from electra_scale.train.engine import universal
from electra_scale.train.engine.engine import Engine
from electra_scale.train.engine.world import World, join_world, leave_world

WRITERS = 2
LABELS = {
    "save": "save, all of it",
    "checksums": "of which fsync and checksums",
    "save_uploading": "save, while the one before is uploaded",
    "upload": "upload of one, in the background",
    "verify": "resume: checksums",
    "load_2": "resume: loading on 2 ranks",
    "convert": "other number of ranks: conversion",
    "load_1": "loading on 1 rank",
    "load_4": "loading on 4 ranks",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time checkpoints of two ranks on this machine.")
    parser.add_argument("--recipe", default="recipes/tiny.yaml", help="recipe whose sizes are measured (tiny)")
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens V (8192)")
    parser.add_argument("--saves", type=int, default=5, help="timed saves of each kind (5)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench/checkpoint"), help="scratch folder, emptied first"
    )
    parser.add_argument("--upload", help="folder or s3://bucket/prefix for the uploads; unset: a folder in --work")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/checkpoint.json"), help="JSON with every figure")
    parser.add_argument("--rank_of", choices=["save", "load"], help=argparse.SUPPRESS)
    return parser.parse_args()


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def train_a_step(engine: Engine, recipe: Recipe, vocabulary: int) -> None:
    """Without one the optimizer has no moments to save."""
    batch = made_up_batch(recipe, vocabulary, engine.world.rank)
    counts = {"masked": torch.tensor(float(len(batch.masked))), "tokens": torch.tensor(float(batch.ids.numel()))}
    micro, accumulation = batch_split(recipe.batch.global_batch, engine.world.size, recipe.batch.most_per_device)
    for part in list(batch.split(micro))[:accumulation]:
        engine.forward_backward(part, Layout.of(part.segment), Clock(0, 0, "joint", 0), counts, False)
    engine.step(recipe.optimizer.learning_rate)


def checkpointer_of(args: argparse.Namespace, world: World, upload: str | None) -> Checkpointer:
    folder = RunFolder(args.work / "run")
    by = Checkpointer(folder, CheckpointConfig(keep=2, upload=upload), world, lambda line: print(line, flush=True))
    by.claim()
    return by


def measure_saves(args: argparse.Namespace, recipe: Recipe, world: World) -> dict[str, Any]:
    """Saves without and with uploads; run on every rank."""
    engine = engine_of(recipe, args.vocabulary, world, recipe.deepspeed)
    train_a_step(engine, recipe, args.vocabulary)
    seconds: dict[str, list[float]] = {name: [] for name in ("save", "checksums", "save_uploading")}
    number = 0

    def save(by: Checkpointer) -> float:
        nonlocal number
        number += 1
        state = RunState(number, "joint", world.size, "none", {})
        world.barrier()
        return timed(lambda: by.save(engine, state))

    plain = checkpointer_of(args, world, None)
    # The first save loads code that later ones have.
    save(plain)
    for _ in range(args.saves):
        seconds["save"].append(save(plain))
        folder = plain.folder / tag_of(number)
        mine = engine._written(folder)
        seconds["checksums"].append(timed(partial(checksums.sums_of, folder, mine)))
    plain.release()
    world.barrier()
    copied = checkpointer_of(args, world, args.upload or str(args.work / "copy"))
    copied.begin(0)
    for _ in range(args.saves):
        seconds["save_uploading"].append(save(copied))
    copied.close()
    if copied.remote is not None:
        put = partial(copied.remote.put_checkpoint, copied.folder / tag_of(number))
        seconds["upload"] = [timed(put) for _ in range(args.saves)]
    copied.release()
    loads = [timed(lambda: engine.load(plain.folder, tag_of(number), world.size)) for _ in range(args.saves)]
    engine.close()
    return {**seconds, f"load_{world.size}": loads}


def measure_loads(args: argparse.Namespace, recipe: Recipe, world: World) -> dict[str, Any]:
    """Loading a checkpoint that was converted already; run on every rank."""
    engine = engine_of(recipe, args.vocabulary, world, recipe.deepspeed)
    folder = RunFolder(args.work / "run").checkpoints
    tag = complete_tags(folder)[-1]
    seconds = [timed(lambda: engine.load(folder, tag, WRITERS)) for _ in range(args.saves)]
    engine.close()
    return {f"load_{world.size}": seconds}


def as_rank(args: argparse.Namespace, recipe: Recipe) -> None:
    """What a process does that :func:`on_ranks` has started."""
    world = join_world()
    found = (measure_saves if args.rank_of == "save" else measure_loads)(args, recipe, world)
    if world.main:
        report(**found)
    leave_world()


def on_ranks(number: int, what: str) -> dict[str, Any]:
    """Run this program on some ranks of this machine; returns what the first of them reports."""
    command = ["-m", "benchmarks.training.checkpoint", *sys.argv[1:], "--rank_of", what]
    processes = start_ranks(number, command, subprocess.PIPE)
    outputs = [process.communicate()[0].decode() for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"a rank failed:\n{''.join(outputs)}")
    lines = [line for line in outputs[0].splitlines() if line.startswith(RESULT)]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT))
    return found


def measure_conversion(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Verifying and converting the newest checkpoint, in this process."""
    target = folder / complete_tags(folder)[-1]
    seconds: dict[str, list[float]] = {"verify": [], "convert": []}
    for _ in range(repeats):
        shutil.rmtree(target / universal.FOLDER, ignore_errors=True)
        seconds["verify"].append(timed(lambda: checksums.problem(target)))
        seconds["convert"].append(timed(lambda: universal.convert(target)))
    return seconds


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    args = arguments()
    recipe, _ = parse_recipe(recipe_parser("checkpoint.py"), ["--config", args.recipe])
    if args.rank_of:
        as_rank(args, recipe)
        return
    shutil.rmtree(args.work, ignore_errors=True)
    found = on_ranks(WRITERS, "save")
    folder = RunFolder(args.work / "run").checkpoints
    tag = complete_tags(folder)[-1]
    size = megabytes(folder / tag)
    found |= measure_conversion(folder, args.saves)
    found |= on_ranks(1, "load") | on_ranks(4, "load")
    sizes = {"checkpoint_mb": size, "universal_mb": megabytes(folder / tag / universal.FOLDER)}
    figures = {name: spread(found[name]) for name in LABELS}
    print(
        f"{args.recipe}, V = {args.vocabulary:,}, {WRITERS} ranks, {size:.1f} MB a checkpoint "
        f"(universal form {sizes['universal_mb']:.1f} MB), {args.saves} of each"
    )
    print(seconds_table(figures, LABELS, 3))
    write_figures(args, figures=figures, sizes=sizes)


if __name__ == "__main__":
    main()
