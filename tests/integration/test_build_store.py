"""Whole builds as a user runs them: any number of processes, killed and continued, give the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

WORDS = tuple(f"{first}{last}" for first in ("ri", "sto", "li", "gar") for last in ("ver", "ne", "ght", "den"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 600 documents in two JSON Lines files and a text file."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = random.Random(1)
    texts = [f"Tale {n}: {' '.join(generator.choices(WORDS, k=80))}." for n in range(600)]
    for name, part in (("a", texts[:250]), ("b", texts[250:400])):
        lines = (json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "c.txt").write_text("\n\n".join(texts[380:]))  # 20 documents come twice
    return folder


def write_config(corpus: Path, folder: Path) -> Path:
    settings = {
        "out": str(folder / "store"),
        "sources": [
            {"kind": "jsonl", "paths": [str(corpus / "*.jsonl")]},
            {"kind": "text", "paths": [str(corpus / "c.txt")]},
        ],
        "tokenizer": {"vocab_size": 150},
        "held_out": 0.05,
        "task_bytes": 20_000,
    }
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def command(config: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "data_pipeline", "build", "--config", str(config), f"--workers={workers}"]


def build(config: Path, workers: int) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command(config, workers), capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stderr


def store_bytes(store: Path) -> dict[str, bytes]:
    files = (path for path in sorted(store.rglob("*")) if path.is_file() and ".build" not in path.parts)
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("reference")
    build(write_config(corpus, folder), workers=1)
    return store_bytes(folder / "store")


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same_bytes(
    corpus: Path, reference: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    build(write_config(corpus, tmp_path), workers)
    assert store_bytes(tmp_path / "store") == reference
    manifest = json.loads(reference["manifest.json"])
    assert len(manifest["shards"]) > 10
    assert manifest["counts"]["duplicates"] == 20


@pytest.mark.parametrize(("workers", "pattern"), [(1, "read-*.npz"), (2, "tokens-*.npz")])
def test_a_killed_build_continues_and_redoes_only_what_was_unfinished(
    corpus: Path, reference: dict[str, bytes], tmp_path: Path, workers: int, pattern: str
) -> None:
    config = write_config(corpus, tmp_path)
    process = subprocess.Popen(command(config, workers), stderr=subprocess.DEVNULL, env=_slow_environment(tmp_path))
    deadline = time.monotonic() + 60
    while len(_records(tmp_path, pattern)) < 3:
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # orphaned workers notice and end
    finished = {path: path.stat().st_mtime_ns for path in _records(tmp_path, pattern)}
    assert 3 <= len(finished) < 10
    assert not (tmp_path / "store" / "manifest.json").exists()
    shown = build(config, workers)
    label = pattern.split("-")[0].replace("tokens", "tokenize")
    assert f"{label}: continuing, {len(finished)} of " in shown
    assert store_bytes(tmp_path / "store") == reference


def _records(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(f"store/.build/*/{pattern}") if not path.name.startswith(".")]


def _slow_environment(folder: Path) -> dict[str, str]:
    """Make renames slow in the build and its workers, so that there is time to kill it between two tasks."""
    site = folder / "site"
    site.mkdir()
    lines = [
        "import os, time",
        "replace = os.replace",
        "def slowly(source, target):",
        "    replace(source, target)",
        "    time.sleep(0.3)",
        "os.replace = slowly",
    ]
    (site / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    return os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def test_no_worker_outlives_a_killed_build(corpus: Path, tmp_path: Path) -> None:
    config = write_config(corpus, tmp_path)
    process = subprocess.Popen(
        command(config, 2), stderr=subprocess.DEVNULL, env=_slow_environment(tmp_path), start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not _records(tmp_path, "read-*.npz"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while True:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "workers of a killed build are still there"
        time.sleep(0.1)
