"""How long a run takes to stop when it is asked, and to resume: seconds of real runs of two ranks.

python -m benchmarks.training.stop --store STORE --recipe recipes/tiny.yaml --out runs/bench/stop.json

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import seconds_table, spread, write_figures
from benchmarks.training.start_ranks import end_ranks, start_ranks
from electra_scale.train.lifecycle.status import read_status

LABELS = {
    "file": "stop file to last rank's exit",
    "signal": "SIGTERM to one rank to last rank's exit",
    "found": "resume: process start to a verified checkpoint",
    "first_step": "resume: process start to the first new step",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time stops and resumes of a run on two ranks of this machine.")
    parser.add_argument("--store", required=True, help="store to train on")
    parser.add_argument("--recipe", default="recipes/tiny.yaml", help="recipe (tiny)")
    parser.add_argument("--stops", type=int, default=10, help="stops, by file and by signal in turn (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the run is asked (0)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/stop"), help="scratch folder, emptied first")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/stop.json"), help="JSON with every figure")
    return parser.parse_args()


def until(condition: Callable[[], bool], ranks: Sequence[subprocess.Popen[bytes]], log: Path) -> float:
    """The time at which a condition held first; ends the benchmark if a rank ends before."""
    while not condition():
        if any(rank.poll() is not None for rank in ranks):
            sys.exit(f"the run ended too early; see {log}")
        time.sleep(0.005)
    return time.perf_counter()


def measure(args: argparse.Namespace, number: int, found: dict[str, list[float]]) -> None:
    """Start or resume the run, wait for a new step, let it train a while, ask it to stop, wait for the last rank."""
    run, file, log = args.work / "run", args.work / f"stop-{number}", args.work / f"start-{number}.log"
    metrics, status = run / "metrics.jsonl", run / "status.json"
    command = ["-m", "electra_scale.pretrain", "--resume", "auto", "--stop_file", str(file)]
    command += ["--config", args.recipe, "--data.store", args.store, "--run_dir", str(run), "--logging.every", "1"]
    command += ["--generator_warmup.steps", "0", "--generator_warmup.discriminator_from_generator", "false"]
    command += ["--optimizer.generator_rate", "1", "--checkpoint.every", "100000", "--schedule.steps", "100000"]
    started, started_at = time.perf_counter(), time.time()
    with log.open("w") as output:
        settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        ranks = start_ranks(2, command, output, subprocess.STDOUT, settings)
    try:
        running = until(lambda: status.is_file() and status.stat().st_mtime > started_at, ranks, log)
        rows = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
        stepped = until(lambda: metrics.is_file() and metrics.read_text().count("\n") > rows, ranks, log)
        if number:
            found["found"].append(running - started)
            found["first_step"].append(stepped - started)
        time.sleep(random.Random(f"{args.seed}/{number}").uniform(1, 4))
        by_file = number % 2 == 0
        asked = time.perf_counter()
        if by_file:
            file.write_text("benchmark")
        else:
            ranks[1].send_signal(signal.SIGTERM)
        codes = [rank.wait(300) for rank in ranks]
        found["file" if by_file else "signal"].append(time.perf_counter() - asked)
        if any(codes) or read_status(run).state != "stopped":
            sys.exit(f"the ranks ended with codes {codes}, {read_status(run).line()}; see {log}")
    finally:
        end_ranks(ranks)


def main() -> None:
    args = arguments()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    found: dict[str, list[float]] = {name: [] for name in LABELS}
    for number in range(args.stops):
        measure(args, number, found)
    figures = {name: spread(values) for name, values in found.items()}
    print(f"{args.recipe}, 2 ranks, {args.stops} stops")
    print(seconds_table(figures, LABELS, 2))
    write_figures(args, figures=figures)


if __name__ == "__main__":
    main()
