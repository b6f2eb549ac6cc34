"""A real store from real text, a recipe small enough for seconds, and processes that are surely gone afterwards."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from tests.s3 import free_ports

ROOT = Path(__file__).resolve().parents[1]

RECIPE: dict[str, Any] = {
    "deepspeed": str(ROOT / "ds_configs/zero2.json"),
    "seed": 3,
    "data": {"sequence_length": 32, "streams": 2, "shuffle_window": 64},
    "model": {
        "embedding": 32,
        "discriminator": {"layers": 2, "hidden": 32, "ffn": 64, "heads": 2},
        "generator": {"layers": 1, "hidden": 16, "ffn": 32, "heads": 1},
        "max_positions": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "objective": {"sampler": "hp_loss", "focal_gamma": 1.0, "head": {"width": 16}},
    "batch": {"global_batch": 8, "most_per_device": 4},
    "optimizer": {"learning_rate": 1e-3},
    "schedule": {"steps": 12, "warmup_steps": 4},
    "generator_warmup": {"steps": 6, "warmup_steps": 2},
    "checkpoint": {"every": 4, "keep": 2},
    "logging": {
        "every": 1,
        "evaluate_every": 6,
        "evaluate_samples": 8,
        "probe_every": 5,
        "probe_samples": 5,
        "probe_draws": 3,
        "peak_tflops": 0.05,
    },
}


def docstrings() -> Iterator[str]:
    """English that every Python has: the documentation strings of its standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.glob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 200:
                    yield text


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one JSON-lines file of real text."""
    folder = tmp_path_factory.mktemp("corpus")
    with (folder / "docs.jsonl").open("w") as file:
        for text in docstrings():
            file.write(json.dumps({"text": text}) + "\n")
    return folder


@pytest.fixture(scope="session")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stores") / "store"
    build_store(
        BuildConfig(
            out=str(out),
            sources=[SourceConfig(kind="jsonl", paths=[str(corpus / "docs.jsonl")])],
            tokenizer=TokenizerConfig(vocab_size=800),
            held_out=0.05,
            task_bytes=200_000,
            workers=1,
        )
    )
    return out


@pytest.fixture
def recipe_file(tmp_path: Path, store: Path) -> Callable[..., Path]:
    """Write the recipe with changes such as ``{"objective.sampler": "electra"}``."""

    def write(name: str = "recipe", **changes: Any) -> Path:
        recipe = json.loads(json.dumps(RECIPE))
        recipe["data"]["store"] = str(store)
        for key, value in changes.items():
            *parents, leaf = key.split(".")
            section = recipe
            for parent in parents:
                section = section.setdefault(parent, {})
            section[leaf] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


def environment() -> dict[str, str]:
    """Of a training process: CPU, one thread a rank, this checkout."""
    return {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def plain(*arguments: str | Path) -> list[str]:
    """Command of a run in one plain process."""
    return [sys.executable, "-m", "electra_scale.pretrain", *map(str, arguments)]


def launched(ranks: int, *arguments: str | Path, port: int) -> list[str]:
    """Command of a run under the deepspeed launcher."""
    launcher = shutil.which("deepspeed", path=str(Path(sys.executable).parent))
    assert launcher is not None
    options = ["--num_accelerators", str(ranks), "--master_port", str(port), "--module", "electra_scale.pretrain"]
    return [launcher, *options, *map(str, arguments)]


def ranks(number: int, *arguments: str | Path) -> list[str]:
    """Command of a run on several ranks of this host, without a launcher's own start-up."""
    starter = str(ROOT / "tests/start_ranks.py")
    port = str(free_ports(1)[0])
    return [sys.executable, starter, str(number), port, "-m", "electra_scale.pretrain", *map(str, arguments)]


def run(command: list[str], folder: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run to the end, in its own session; what it leaves behind is ended."""
    process = start(command, folder)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        end(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    """SIGKILL for every process of the session; the launcher puts its ranks into sessions of their own."""
    import psutil

    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows(run_folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what a clock decides."""
    found = []
    for line in (run_folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.append({name: value for name, value in row.items() if not name.startswith("speed/")})
    return found
