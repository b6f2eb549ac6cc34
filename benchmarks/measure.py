"""Running one contestant in a process of its own, and summing up its rounds."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULT = "RESULT "


@dataclass
class Outcome:
    """What a process did: ``seconds`` from start to exit, what it reported, or why it failed."""

    seconds: float
    result: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


def report(**values: object) -> None:
    """Hand figures to the parent; the last such line counts."""
    print(RESULT + json.dumps(values), flush=True)


def run(
    command: Sequence[str],
    log: Path,
    cores: Sequence[int],
    environment: Mapping[str, str] | None = None,
    limit: int = 1800,
) -> Outcome:
    """Run a command on some cores only; its output goes to ``log``. A failure is returned, not raised."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # Packages of peers were compiled when they were installed: with this, what lies here would be compiled in each run.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    # Start-up and the store are what is measured: nothing may look for updates on a network meanwhile.
    settings = {"HF_HUB_OFFLINE": "1", "LITDATA_DISABLE_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **settings, **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except BaseException as error:
            os.killpg(process.pid, 9)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return Outcome(limit, failure=f"not finished after {limit} s; see {log}")
        seconds = time.perf_counter() - start
    lines = log.read_text(errors="replace").splitlines()
    results = [line for line in lines if line.startswith(RESULT)]
    if code != 0:
        printed = [line.strip() for line in lines if line.strip() and not line.startswith(RESULT)]
        last = printed[-1][:200] if printed else "it printed nothing"
        return Outcome(seconds, failure=f"exit {code}: {last}; see {log}")
    return Outcome(seconds, json.loads(results[-1].removeprefix(RESULT)) if results else {})


def script(name: str, *arguments: object) -> list[str]:
    """The command that runs a module of this package."""
    return [sys.executable, "-m", f"benchmarks.{name}", *(str(argument) for argument in arguments)]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and most of the rounds."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "rounds": list(values)}


def seconds_table(figures: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str], digits: int) -> str:
    """Median and spread of each figure under its label."""
    rows = [
        [label, f"{one['median']:.{digits}f}", f"{one['least']:.{digits}f} to {one['most']:.{digits}f}"]
        for label, one in ((label, figures[name]) for name, label in labels.items())
    ]
    return table(["what", "median s", "spread"], rows)


def drop_page_cache() -> bool:
    """Forget file contents that the kernel holds; False if that is not allowed here."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def pick_cores(count: int) -> list[int]:
    """The first ``count`` cores that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        sys.exit(f"--cores {count}: only {len(allowed)} are available here")
    return allowed[:count]


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def write_figures(args: argparse.Namespace, **content: Any) -> None:
    """Write a benchmark's figures to ``args.out``, with the machine and the settings that they come from."""
    settings = {key: str(value) for key, value in vars(args).items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine(), "settings": settings, **content}, indent=2) + "\n")
    print(f"written: {args.out}")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned for reading as plain text: the first column left, others right."""
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths))
    return "\n".join([line(headings), f"|{rule}|", *(line(row) for row in rows)])
