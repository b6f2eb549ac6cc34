"""How far training in bf16 is from training in fp32, by its losses, and from it how far another seed is.

python -m benchmarks.training.precision --store STORE --out runs/bench/precision

Runs of the same steps, one rank of one thread each: fp32, bf16, and fp32 with the next seed. Losses are averaged over
windows of steps. A table, the figure ``losses.png`` and JSON; see docs/performance.md, Precision.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import pick_cores, run, table, write_figures

RUNS = {"fp32": ("zero2", 0), "bf16": ("zero2_bf16", 0), "fp32, another seed": ("zero2", 1)}
"""DeepSpeed JSON, and what is added to the seed."""

LOSSES = {"generator_warmup": "loss/generator", "joint": "loss/discriminator"}
"""What a phase trains, in the tiny recipe: its generator stays as it is in the joint phase."""

Curve = NDArray[np.float64]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare losses of training in fp32 and bf16.")
    parser.add_argument("--store", required=True, help="store to train on")
    parser.add_argument("--recipe", default="tiny", help="recipe (tiny)")
    parser.add_argument("--steps", type=int, default=1000, help="steps, half of them alone, half joint (1000)")
    parser.add_argument("--window", type=int, default=50, help="steps that are averaged (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the first two runs (0)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/precision"), help="folder for runs and results")
    return parser.parse_args()


def losses_of(name: str, args: argparse.Namespace) -> dict[str, Curve]:
    """Each phase's loss by step, of a run that is made now."""
    deepspeed_json, more = RUNS[name]
    folder = args.out / name.replace(", ", "-").replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    half = args.steps // 2
    options = ["--config", args.recipe, "--data.store", args.store, "--run_dir", folder, "--deepspeed", deepspeed_json]
    options += ["--seed", args.seed + more, "--generator_warmup.steps", half, "--schedule.steps", args.steps - half]
    options += ["--logging.every", 1, "--logging.evaluate_every", args.steps, "--logging.probe_every", 0]
    command = [sys.executable, "-m", "electra_scale.pretrain", *map(str, options)]
    environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    outcome = run(command, args.out / f"{folder.name}.log", pick_cores(1), environment)
    if outcome.failure:
        sys.exit(f"{name}: {outcome.failure}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        phase: np.array([row[loss] for row in rows if row.get("phase") == phase and loss in row])
        for phase, loss in LOSSES.items()
    }


def smooth(losses: Curve, window: int) -> Curve:
    """Means over each window of steps that lies in the curve whole."""
    return np.convolve(losses, np.full(window, 1 / window), mode="valid")


def apart(one: Curve, other: Curve, window: int) -> tuple[float, float]:
    """Largest and mean distance of two curves, smoothed."""
    distance = np.abs(smooth(one, window) - smooth(other, window))
    return float(distance.max()), float(distance.mean())


def draw(curves: dict[str, dict[str, Curve]], window: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(LOSSES), figsize=(9, 3.2), layout="constrained")
    first = 0
    for axis, (phase, loss) in zip(axes, LOSSES.items(), strict=True):
        for name, phases in curves.items():
            line = smooth(phases[phase], window)
            axis.plot(first + window + np.arange(len(line)), line, label=name, linewidth=1.2)
        first += len(phases[phase])
        axis.set(title=f"{phase}: {loss}, mean of {window} steps", xlabel="step")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    curves = {name: losses_of(name, args) for name in RUNS}
    plain = curves["fp32"]
    rows, distances = [], {}
    for name in list(RUNS)[1:]:
        for phase, loss in LOSSES.items():
            largest, mean = apart(curves[name][phase], plain[phase], args.window)
            last = args.window
            ends = [float(found[phase][-last:].mean()) for found in (plain, curves[name])]
            distances[f"{name}, {loss}"] = {"largest": largest, "mean": mean, "ends": ends}
            rows.append([name, loss, f"{largest:.4f}", f"{mean:.4f}", f"{ends[1]:.4f} ({ends[0]:.4f})"])
    heading = ["against fp32", "loss", "furthest apart", "on average", f"last {args.window} steps (fp32)"]
    print(f"{args.recipe}, {args.steps} steps, means of {args.window}")
    print(table(heading, rows))
    draw(curves, args.window, args.out / "losses.png")
    args.out = args.out / "precision.json"
    every = {name: {phase: curve.tolist() for phase, curve in phases.items()} for name, phases in curves.items()}
    write_figures(args, distances=distances, losses=every)


if __name__ == "__main__":
    main()
