"""Whole builds as a user runs them, for the tests that share them: a corpus, a configuration, the command."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

WORDS = tuple(f"{first}{last}" for first in ("ri", "sto", "li", "gar") for last in ("ver", "ne", "ght", "den"))
DUPLICATES = 20


def write_corpus(folder: Path) -> Path:
    """A folder with 600 documents in two JSON Lines files and a text file; 20 of them come twice."""
    generator = random.Random(1)
    texts = [f"Tale {n}: {' '.join(generator.choices(WORDS, k=80))}." for n in range(600)]
    for name, part in (("a", texts[:250]), ("b", texts[250:400])):
        lines = (json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "c.txt").write_text("\n\n".join(texts[400 - DUPLICATES :]))
    return folder


def write_config(corpus: Path, folder: Path, out: str | None = None, **changes: Any) -> Path:
    """``build.yaml`` in ``folder`` for a store beside it, or at ``out``."""
    settings = {
        "out": out or str(folder / "store"),
        "sources": [
            {"kind": "jsonl", "paths": [str(corpus / "*.jsonl")]},
            {"kind": "text", "paths": [str(corpus / "c.txt")]},
        ],
        "tokenizer": {"vocab_size": 150},
        "held_out": 0.05,
        "task_bytes": 20_000,
    }
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def command(config: Path, *options: str) -> list[str]:
    """``electra-data build`` with this configuration."""
    return [sys.executable, "-m", "data_pipeline", "build", "--config", str(config), *options]


def build(config: Path, *options: str, launcher: tuple[str, ...] = ()) -> str:
    """Run a build that must succeed; what it said."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*launcher, *command(config, *options)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def store_bytes(store: Path) -> dict[str, bytes]:
    """Every file of a store but its work folder."""
    files = (path for path in sorted(store.rglob("*")) if path.is_file() and ".build" not in path.parts)
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def records(store: Path, pattern: str = "*-*.npz") -> dict[Path, int]:
    """The finished records of an unfinished build, with the times when they were written."""
    found = {}
    for path in store.glob(f".build/*/{pattern}"):
        if not path.name.startswith("."):
            found[path] = path.stat().st_mtime_ns
    return found


def slow_environment(folder: Path, seconds: float) -> dict[str, str]:
    """Make every rename take a while in a build and its workers, so that there is time to kill it between two."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    lines = [
        "import os, time",
        "replace = os.replace",
        "def slowly(source, target):",
        "    replace(source, target)",
        f"    time.sleep({seconds})",
        "os.replace = slowly",
    ]
    (site / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{os.getcwd()}", "OMP_NUM_THREADS": "1"}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any] | None = None, seconds: float = 60) -> None:
    """Wait until a condition holds, while ``process`` must be running."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the build ended too early"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def group_is_gone(group: int) -> bool:
    """Whether no process is left in a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def mpiexec(require_part: Callable[[bool, str], None]) -> tuple[str, ...]:
    """The start of a command that runs on three ranks."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    require_part(found is not None and importlib.util.find_spec("mpi4py") is not None, "pip install mpi4py mpich")
    return (str(found), "-n", "3")
