"""How long a SLURM job takes to stop when its batch script gets a signal, and to train again after the requeue.

python -m benchmarks.training.stop_slurm --store STORE --sbatch=--nodes=2 --out runs/bench/stop_slurm.json

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import seconds_table, spread, write_figures

LABELS = {
    "ended": "signal to the batch script to last rank's exit",
    "requeued": "last rank's exit to the next start of the job",
    "stepped": "start of the job to its first new step, gate included",
}
_TASKS_ENDED = "the tasks ended with code 0"
_STARTED = "tasks a node on"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time stops of a job of slurm/pretrain.sh; start it in the checkout.")
    parser.add_argument("--store", required=True, help="store to train on")
    parser.add_argument("--recipe", default="recipes/tiny.yaml", help="recipe (tiny)")
    parser.add_argument("--sbatch", default="", help='more options of sbatch: --sbatch="--nodes=2 --time=30"')
    parser.add_argument("--stops", type=int, default=5, help="stops, each followed by a requeue (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the run is asked (0)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/bench/stop_slurm"), help="folder that all nodes see, emptied first"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/stop_slurm.json"), help="JSON with every figure")
    return parser.parse_args()


def until(condition: Callable[[], bool], log: Path) -> float:
    """The time at which a condition held first."""
    deadline = time.monotonic() + 600
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited for ten minutes; see {log}")
        time.sleep(0.01)
    return time.perf_counter()


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def more_lines(path: Path, than: int) -> bool:
    return lines(path) > than


def main() -> None:
    args = arguments()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    run, log = args.work / "run", args.work / "job.log"
    metrics = run / "metrics.jsonl"

    def logged(text: str, times: int) -> bool:
        return log.is_file() and log.read_text(errors="replace").count(text) >= times

    command = ["sbatch", "--parsable", f"--output={log}", *shlex.split(args.sbatch), "slurm/pretrain.sh"]
    command += ["--config", args.recipe, "--data.store", args.store, "--run_dir", str(run), "--logging.every", "1"]
    command += ["--generator_warmup.steps", "0", "--generator_warmup.discriminator_from_generator", "false"]
    command += ["--optimizer.generator_rate", "1", "--checkpoint.every", "100000", "--schedule.steps", "100000"]
    job = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split(";")[0].strip()
    found: dict[str, list[float]] = {name: [] for name in LABELS}
    try:
        until(partial(more_lines, metrics, 0), log)
        for number in range(1, args.stops + 1):
            time.sleep(random.Random(f"{args.seed}/{number}").uniform(1, 4))
            asked = time.perf_counter()
            subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)
            ended = until(partial(logged, _TASKS_ENDED, number), log)
            rows = lines(metrics)
            started = until(partial(logged, _STARTED, number + 1), log)
            stepped = until(partial(more_lines, metrics, rows), log)
            for name, seconds in zip(LABELS, (ended - asked, started - ended, stepped - started), strict=True):
                found[name].append(seconds)
    finally:
        subprocess.run(["scancel", job], check=True)
    figures = {name: spread(values) for name, values in found.items()}
    print(f"{args.recipe}, sbatch {args.sbatch}, {args.stops} stops")
    print(seconds_table(figures, LABELS, 2))
    write_figures(args, figures=figures)


if __name__ == "__main__":
    main()
