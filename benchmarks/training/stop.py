"""How long a run takes to stop when it is asked, and to go on: seconds of real lives of two ranks.

python -m benchmarks.training.stop --store STORE --recipe recipes/tiny.yaml --out runs/bench/stop.json

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import seconds_table, spread, write_figures
from electra_scale.train.lifecycle.status import read_status

STARTER = Path(__file__).resolve().parents[2] / "tests/support/programs/start_ranks.py"
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
    parser.add_argument("--lives", type=int, default=10, help="stops, by file and by signal in turn (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the run is asked (0)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/stop"), help="scratch folder, emptied first")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/stop.json"), help="JSON with every figure")
    return parser.parse_args()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> float:
    """The time at which a condition held first; ends the benchmark if the run ends before."""
    while not condition():
        if process.poll() is not None:
            sys.exit(f"the run ended with code {process.returncode}; see {log}")
        time.sleep(0.005)
    return time.perf_counter()


def live(args: argparse.Namespace, life: int, found: dict[str, list[float]]) -> None:
    """Start the run, wait for a step of this life, let it train a while, ask it to stop, wait for the last rank."""
    run, file, log = args.work / "run", args.work / f"stop-{life}", args.work / f"life-{life}.log"
    metrics, status = run / "metrics.jsonl", run / "status.json"
    options = ["--config", args.recipe, "--data.store", args.store, "--run_dir", str(run), "--logging.every", "1"]
    options += ["--generator_warmup.steps", "0", "--checkpoint.every", "100000", "--schedule.steps", "100000"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(STARTER), "2", port, "-m", "electra_scale.pretrain", *options]
    began, began_at = time.perf_counter(), time.time()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--resume", "auto", "--stop_file", str(file)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        running = until(lambda: status.is_file() and status.stat().st_mtime > began_at, process, log)
        rows = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
        stepped = until(lambda: metrics.is_file() and metrics.read_text().count("\n") > rows, process, log)
        if life:
            found["found"].append(running - began)
            found["first_step"].append(stepped - began)
        time.sleep(random.Random(f"{args.seed}/{life}").uniform(1, 4))
        by_file = life % 2 == 0
        asked = time.perf_counter()
        if by_file:
            file.write_text("benchmark")
        else:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[1]), signal.SIGTERM)
        code = process.wait(300)
        found["file" if by_file else "signal"].append(time.perf_counter() - asked)
        if code or read_status(run).state != "stopped":
            sys.exit(f"the run ended with code {code}, {read_status(run).line()}; see {log}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    args = arguments()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    found: dict[str, list[float]] = {name: [] for name in LABELS}
    for life in range(args.lives):
        live(args, life, found)
    figures = {name: spread(values) for name, values in found.items()}
    print(f"{args.recipe}, 2 ranks, {args.lives} lives")
    print(seconds_table(figures, LABELS, 2))
    write_figures(args, figures=figures)


if __name__ == "__main__":
    main()
