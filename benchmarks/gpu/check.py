"""Everything that waits for a GPU, in one run of about ten minutes: tests, loss curves in two precisions, speed.

python -m benchmarks.gpu.check --minutes 10 --out runs/gpu

Needs torch with CUDA, what requirements.txt beside it lists, and this checkout; no corpus and no network. What it
leaves out it says. It exits with 1 if a part failed. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import machine, table
from data_pipeline.places.atomic import write_bytes

RECIPES = ("small", "base")
LENGTHS = (128, 512)
SAMPLERS = ("electra", "hp_loss")

_LEAST_SECONDS = 40.0
"""That a case of speed needs: a start, compilation, some steps."""


@dataclass
class Report:
    """What was found, part by part; written after each, so that a run that is cut off has left what it knows."""

    out: Path
    content: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, name: str, found: Any) -> None:
        """Note a part's figures."""
        self.content[name] = found
        self.write()

    def leave_out(self, what: str, why: str) -> None:
        """Say, now and in the report, what is not measured."""
        self.left_out.append(f"{what}: {why}")
        print(f"left out: {what}: {why}", flush=True)
        self.write()

    def fail(self, what: str, why: str) -> None:
        """Say, now and in the report, what went wrong."""
        self.failed.append(f"{what}: {why}")
        print(f"FAILED: {what}: {why}", flush=True)
        self.write()

    def write(self) -> None:
        """``gpu.json`` and ``gpu.md``."""
        self.out.mkdir(parents=True, exist_ok=True)
        whole = {"machine": machine(), **self.content, "left_out": self.left_out, "failed": self.failed}
        write_bytes(self.out / "gpu.json", json.dumps(whole, indent=1).encode() + b"\n")
        write_bytes(self.out / "gpu.md", markdown(self.content, self.left_out, self.failed).encode())


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and measure what needs a GPU.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it (10)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for gpu.json and gpu.md (runs/gpu)")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help=f"recipes ({' '.join(RECIPES)})")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), help="tokens of a row (128 512)")
    parser.add_argument("--layers", type=int, help="layers of both networks, if not the recipe's")
    parser.add_argument("--rows", type=int, help="most rows of a micro-batch; halved until they fit (the recipe's)")
    parser.add_argument("--steps", type=int, default=200, help="steps of each loss curve (200)")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a case of speed is timed for (10)")
    parser.add_argument("--without-device", action="store_true", help="run on the CPU, to try this program itself")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if not torch.cuda.is_available() and not options.without_device:
        print("gpu: error: torch finds no CUDA device here; run this on a machine with one", file=sys.stderr)
        return 2
    end = time.monotonic() + 60 * options.minutes
    report = Report(options.out)
    run_tests(report, options, end)
    if importlib.util.find_spec("deepspeed") is None:
        report.leave_out("loss curves and speed", "deepspeed is not installed")
    else:
        run_curves(report, options, end)
        run_speed(report, options, end)
    print(f"\n{markdown(report.content, report.left_out, report.failed)}\nwritten: {options.out}/gpu.json, gpu.md")
    return 1 if report.failed else 0


def run_tests(report: Report, options: argparse.Namespace, end: float) -> None:
    """The tests that carry the mark ``cuda``; they are skipped on machines without a device."""
    missing = "there is no device" if options.without_device else "pytest is not installed"
    if options.without_device or importlib.util.find_spec("pytest") is None:
        report.leave_out("tests", missing)
        return
    # Without conftest.py, whose fixtures need parts that such a machine has not.
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "--noconftest", "-p", "no:cacheprovider", *_files()]
    result = _run(command, end)
    if result is None:
        report.fail("tests", "they did not end in time")
        return
    lines = result.stdout.splitlines()
    report.add("tests", {"code": result.returncode, "summary": lines[-1] if lines else "", "output": lines[-60:]})
    # 5: none was found.
    if result.returncode not in (0, 5):
        report.fail("tests", lines[-1] if lines else f"code {result.returncode}")


def _files() -> list[str]:
    """Files with a test of the mark: others would be imported for nothing, and with them what they need."""
    return sorted(str(path) for path in Path("tests/unit").rglob("test_*.py") if "mark.cuda" in path.read_text())


def run_curves(report: Report, options: argparse.Namespace, end: float) -> None:
    """The loss of one recipe over the same steps in fp32 and in bf16."""
    curves: dict[str, list[float]] = {}
    for precision in ("fp32", "bf16"):
        found = _child("benchmarks.gpu.curve", [precision, "--steps", str(options.steps)], options, end)
        if isinstance(found, str):
            report.fail(f"loss curve in {precision}", found)
            return
        curves[precision] = found["losses"]
    tail = max(1, options.steps // 4)
    ends = {name: sum(losses[-tail:]) / tail for name, losses in curves.items()}
    apart = max(abs(one - other) for one, other in zip(*(_smooth(losses) for losses in curves.values()), strict=True))
    report.add("curves", {"losses": curves, "mean_of_last_quarter": ends, "furthest_apart": apart})


def _smooth(losses: list[float], window: int = 20) -> list[float]:
    """Means over the last ``window`` steps."""
    return [sum(losses[max(0, end - window) : end]) / min(window, end) for end in range(1, len(losses) + 1)]


def run_speed(report: Report, options: argparse.Namespace, end: float) -> None:
    """Tokens a second and MFU of each case, eager and compiled; what time does not suffice for is left out."""
    cases = list(itertools.product(options.recipes, options.lengths, SAMPLERS, (False, True)))
    found = []
    for number, (recipe, length, sampler, compiled) in enumerate(cases):
        label = f"{recipe}, length {length}, {sampler}, {'compiled' if compiled else 'eager'}"
        if end - time.monotonic() < _LEAST_SECONDS:
            report.leave_out(f"speed of {label} and {len(cases) - number - 1} more", "no time is left")
            return
        given = ["--recipe", recipe, "--length", str(length), "--sampler", sampler, "--seconds", str(options.seconds)]
        given += ["--compile"] if compiled else []
        for name, value in (("--layers", options.layers), ("--rows", options.rows)):
            given += [] if value is None else [name, str(value)]
        one = _child("benchmarks.gpu.speed", given, options, end)
        if isinstance(one, str):
            report.fail(f"speed of {label}", one)
            continue
        print(f"{label}: {one['tokens_per_second']['median']:,.0f} tokens/s", flush=True)
        found.append({"recipe": recipe, "length": length, "sampler": sampler, "compiled": compiled, **one})
        report.add("speed", found)


def _child(module: str, given: list[str], options: argparse.Namespace, end: float) -> dict[str, Any] | str:
    """What a part prints on its last line, from a process of its own; or why there is nothing."""
    command = [sys.executable, "-m", module, *given, *(["--without-device"] if options.without_device else [])]
    result = _run(command, end)
    if result is None:
        return "it did not end in time"
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines()
        return lines[-1] if lines else f"code {result.returncode}"
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def _run(command: list[str], end: float) -> subprocess.CompletedProcess[str] | None:
    """A command's result, or None if it did not end before ``end``."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max(1.0, end - time.monotonic())
        )
    except subprocess.TimeoutExpired:
        return None


def markdown(content: dict[str, Any], left_out: list[str], failed: list[str]) -> str:
    """The report for people."""
    parts = []
    if "tests" in content:
        parts.append(f"Tests: {content['tests']['summary']}")
    if "curves" in content:
        curves = content["curves"]
        ends = ", ".join(f"{name} {value:.4f}" for name, value in curves["mean_of_last_quarter"].items())
        parts.append(
            f"Loss of the discriminator, mean of the last quarter: {ends}; means of 20 steps at most "
            f"{curves['furthest_apart']:.4f} apart"
        )
    if content.get("speed"):
        rows = [
            [
                f"{one['recipe']}, {one['length']}, {one['sampler']}, {'compiled' if one['compiled'] else 'eager'}",
                f"{one['tokens_per_second']['median']:,.0f}",
                f"{one['tokens_per_second']['most']:,.0f}",
                f"{one['mfu']:.3f}",
                f"{one['rows']}",
                f"{one['gigabytes']:.1f}",
            ]
            for one in content["speed"]
        ]
        parts.append(table(["case", "tokens/s, median", "most", "MFU", "rows", "GB"], rows))
    parts += [f"Left out: {one}" for one in left_out] + [f"FAILED: {one}" for one in failed]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
