"""Whole training steps beside those of other trainers, taking turns on the same batches: one table, one run.

python -m benchmarks.training.peers --recipe recipes/small.yaml --rows 32 --out runs/bench/training.json

See benchmarks/README.md for what is measured and what is fair about it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import RESULT, pick_cores, script, spread, table, write_figures
from benchmarks.training.contestants import CONTESTANTS, LENGTHS
from electra_scale.train.engine.precision import has_bf16

REFERENCE = "transformers"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time training steps beside those of other trainers.")
    parser.add_argument("--recipe", default="recipes/small.yaml", help="recipe whose sizes all train (small)")
    parser.add_argument("--vocabulary", type=int, default=30522, help="tokens V (30522)")
    parser.add_argument("--rows", type=int, default=32, help="rows of a step, or documents (32)")
    parser.add_argument("--length", type=int, help="positions of a row; unset: the recipe's")
    parser.add_argument(
        "--lengths", choices=LENGTHS, nargs="+", default=["full"], help="rows that are full, or documents (full)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of every contestant (2)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each contestant (10)")
    parser.add_argument(
        "--contestants",
        choices=list(CONTESTANTS),
        nargs="+",
        help="who takes part (all; those in bf16 only where the processor has instructions for it)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench/training.json"), help="JSON with every figure")
    args = parser.parse_args()
    if args.contestants is None:
        emulated = [] if has_bf16(torch.device("cpu")) else [name for name in CONTESTANTS if name.endswith("-bf16")]
        args.contestants = [name for name in CONTESTANTS if name not in emulated]
        if emulated:
            print(f"left out, since this processor has no instructions for bf16: {', '.join(emulated)}", flush=True)
    return args


@dataclass
class Turn:
    """What a contestant did with a step: seconds, and the tokens of text in it."""

    seconds: float
    tokens: int


class Contestant:
    """A process that makes a step whenever it is told to, and waits otherwise."""

    def __init__(self, name: str, lengths: str, args: argparse.Namespace, log: Path, cores: list[int]) -> None:
        self.name = name
        self.failure = ""
        self.turns: list[Turn] = []
        self.memory = 0.0
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        options = ["--name", name, "--recipe", args.recipe, "--vocabulary", args.vocabulary, "--rows", args.rows]
        options += ["--threads", args.threads, "--lengths", lengths]
        options += ["--length", args.length] if args.length else []
        environment = {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
        with open(log, "w") as output:
            self._process = subprocess.Popen(
                script("training.contestants", *options),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env={**os.environ, **environment},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        self._answer()

    def step(self, number: int, timed: bool) -> None:
        """Make step ``number``; a contestant that has failed stays away."""
        if self.failure:
            return
        assert self._process.stdin is not None
        # One that has ended says why in its log, which is read in place of its answer.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        answer = self._answer()
        if answer is not None:
            self.memory = answer["memory_mb"]
            if timed:
                self.turns.append(Turn(answer["seconds"], answer["tokens"]))

    def end(self) -> None:
        """Close the contestant's process."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def figures(self) -> dict[str, Any]:
        """Its seconds, tokens and memory, or why there are none."""
        if self.failure or not self.turns:
            return {"failure": self.failure or "no step was timed"}
        rates = [turn.tokens / turn.seconds for turn in self.turns]
        return {
            "seconds": spread([turn.seconds for turn in self.turns]),
            "tokens_per_second": spread(rates),
            "memory_mb": self.memory,
        }

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(RESULT):
                answer: dict[str, Any] = json.loads(line.removeprefix(RESULT))
                return answer
        self._process.wait()
        printed = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        self.failure = f"{printed[-1][:160] if printed else 'it printed nothing'}; see {self._log}"
        return None


def compared(lengths: str, args: argparse.Namespace, cores: list[int]) -> dict[str, dict[str, Any]]:
    """The figures of every contestant on rows of one kind."""
    logs = args.out.parent / "logs"
    contestants = [Contestant(name, lengths, args, logs / f"{name}-{lengths}.log", cores) for name in args.contestants]
    try:
        warm_up = 2
        for number in range(warm_up + args.steps):
            # Each step begins with another contestant, so that none always follows the same one.
            first = number % len(contestants)
            for contestant in contestants[first:] + contestants[:first]:
                contestant.step(number, number >= warm_up)
    finally:
        for contestant in contestants:
            contestant.end()
    return {contestant.name: contestant.figures() for contestant in contestants}


def shown(figures: dict[str, dict[str, Any]]) -> str:
    """The table of one kind of rows."""
    reference = figures.get(REFERENCE, {})
    rows = []
    for name, found in figures.items():
        if "failure" in found:
            rows.append([name, found["failure"], "", "", ""])
            continue
        seconds, rate = found["seconds"], found["tokens_per_second"]
        times = share = ""
        if "seconds" in reference:
            # The quickest steps are those that nothing else on the machine disturbed.
            times = f"{rate['median'] / reference['tokens_per_second']['median']:.2f}"
            times += f" ({rate['most'] / reference['tokens_per_second']['most']:.2f})"
            share = f"{found['memory_mb'] / reference['memory_mb']:.2f}"
        rows.append(
            [
                name,
                f"{seconds['median']:.2f} ({seconds['least']:.2f} to {seconds['most']:.2f})",
                f"{rate['median']:,.0f} ({rate['most']:,.0f})",
                times,
                f"{found['memory_mb']:,.0f}" + (f" ({share})" if share else ""),
            ]
        )
    headings = ["contestant", "s a step", "tokens/s, median (most)", f"times {REFERENCE}", "MB at most"]
    return table(headings, rows)


def main() -> None:
    args = arguments()
    cores = pick_cores(args.threads)
    figures = {}
    for lengths in args.lengths:
        figures[lengths] = compared(lengths, args, cores)
        print(f"\n{args.recipe}, {args.rows} rows, {lengths}: {LENGTHS[lengths]}")
        print(shown(figures[lengths]), flush=True)
    packages = ("torch", "transformers", "deepspeed", "accelerate", "electra-pytorch")
    installed = {one: importlib.metadata.version(one) for one in packages if _is_there(one)}
    write_figures(args, figures=figures, versions=installed)
    if all("failure" in found for kind in figures.values() for found in kind.values()):
        sys.exit(1)


def _is_there(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
