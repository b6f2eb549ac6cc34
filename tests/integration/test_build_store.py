"""Whole builds as a user runs them: any number of processes, killed and continued, give the same bytes."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.fixtures.builds import (
    DUPLICATES,
    build,
    command,
    group_is_gone,
    records,
    slow_environment,
    store_bytes,
    write_config,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

BYTE_LEVEL = {"kind": "bpe", "vocab_size": 400}


@pytest.fixture(scope="module")
def corpus(small_corpus: Path) -> Path:
    return small_corpus


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one process that trains a vocabulary."""
    folder = tmp_path_factory.mktemp("reference")
    build(write_config(corpus, folder), "--workers=1")
    return folder / "store"


@pytest.fixture(scope="module")
def reference(trained: Path) -> dict[str, bytes]:
    return store_bytes(trained)


@pytest.fixture(scope="module")
def given(trained: Path) -> dict[str, Any]:
    """Settings that take the vocabulary from the reference, so that a build reads the text once."""
    return {"tokenizer": {"path": str(trained / "tokenizer")}}


@pytest.fixture(scope="module")
def given_reference(corpus: Path, given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("given")
    build(write_config(corpus, folder, **given), "--workers=1")
    return store_bytes(folder / "store")


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same_bytes(
    corpus: Path, reference: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    build(write_config(corpus, tmp_path), f"--workers={workers}")
    assert store_bytes(tmp_path / "store") == reference
    manifest = json.loads(reference["manifest.json"])
    assert len(manifest["shards"]) > 10
    assert manifest["counts"]["duplicates"] == DUPLICATES


def test_a_given_vocabulary_gives_the_same_shards_as_training_it(
    corpus: Path, given: dict[str, Any], reference: dict[str, bytes], given_reference: dict[str, bytes], tmp_path: Path
) -> None:
    build(write_config(corpus, tmp_path, **given), "--workers=2")
    assert store_bytes(tmp_path / "store") == given_reference
    shards = {name: data for name, data in reference.items() if name.endswith(".arrow")}
    assert {name: data for name, data in given_reference.items() if name.endswith(".arrow")} == shards


def test_ranks_of_mpi_give_the_same_bytes(
    corpus: Path,
    given: dict[str, Any],
    reference: dict[str, bytes],
    given_reference: dict[str, bytes],
    tmp_path: Path,
    mpiexec: tuple[str, ...],
) -> None:
    shown = build(write_config(corpus, tmp_path), launcher=mpiexec)
    assert shown.count("built ") == 1
    assert store_bytes(tmp_path / "store") == reference
    shown = build(write_config(corpus, tmp_path), launcher=mpiexec)
    assert shown.count("already built") == 1
    build(write_config(corpus, tmp_path, str(tmp_path / "given"), **given), launcher=mpiexec)
    assert store_bytes(tmp_path / "given") == given_reference


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"clean": {"min_chars": 1_000_000}}, "no document is left"),
        ({"engine": "processes"}, "engine is processes but an MPI launcher"),
        ({"sources": [{"kind": "jsonl", "paths": ["BAD"]}]}, "cannot read"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_an_error_on_any_rank_ends_all_with_one_line(
    corpus: Path, tmp_path: Path, mpiexec: tuple[str, ...], change: dict[str, Any], expected: str
) -> None:
    if "sources" in change:
        import gzip

        data = gzip.compress((corpus / "a.jsonl").read_bytes())
        for name in ("one", "two", "three"):
            (tmp_path / f"{name}.jsonl.gz").write_bytes(data[:-200])
        change = {"sources": [{"kind": "jsonl", "paths": [str(tmp_path / "*.gz")]}]}
    config = write_config(corpus, tmp_path, **change)
    result = subprocess.run([*mpiexec, *command(config)], capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("read: ")]
    assert result.returncode == 2
    assert len(lines) == 1
    assert expected in lines[0]


def test_a_launch_without_mpi4py_is_one_line(corpus: Path, tmp_path: Path, mpiexec: tuple[str, ...]) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mpi4py.py").write_text("raise ImportError('not here')\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{os.getcwd()}"}
    result = subprocess.run(
        [*mpiexec, *command(write_config(corpus, tmp_path))],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "3 processes were launched but mpi4py" in line


@pytest.fixture(scope="module")
def byte_level(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of a build that trains a byte-level BPE and is not disturbed."""
    folder = tmp_path_factory.mktemp("byte-level")
    build(write_config(corpus, folder, tokenizer=BYTE_LEVEL), "--workers=1")
    return store_bytes(folder / "store")


@pytest.mark.parametrize(
    ("workers", "pattern", "bpe"), [(1, "read-*.npz", False), (2, "tokens-*.npz", False), (2, "tokens-*.npz", True)]
)
def test_a_killed_build_continues_and_redoes_only_what_was_unfinished(
    corpus: Path, request: pytest.FixtureRequest, tmp_path: Path, workers: int, pattern: str, bpe: bool
) -> None:
    expected = request.getfixturevalue("byte_level" if bpe else "reference")
    config, store = write_config(corpus, tmp_path, **({"tokenizer": BYTE_LEVEL} if bpe else {})), tmp_path / "store"
    process = subprocess.Popen(
        command(config, f"--workers={workers}"),
        stderr=subprocess.DEVNULL,
        env=slow_environment(tmp_path, 0.08),
        start_new_session=True,
    )
    wait_for(lambda: len(records(store, pattern)) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: group_is_gone(process.pid))  # orphaned workers notice and end
    finished = records(store, pattern)
    assert 3 <= len(finished) < 10
    assert not (store / "manifest.json").exists()
    shown = build(config, f"--workers={workers}")
    label = pattern.split("-")[0].replace("tokens", "tokenize")
    assert f"{label}: continuing, {len(finished)} of " in shown
    assert store_bytes(store) == expected


def kill_one(process: subprocess.Popen[Any], generator: random.Random) -> None:
    """Kill a random process of a build, the leader, a worker or a rank, and wait until all are gone."""
    launcher = psutil.Process(process.pid)
    tree = {one: one.cmdline() for one in (launcher, *launcher.children(recursive=True)) if "python" in one.name()}
    # Beside those that build, Python has a process that only cleans up after others.
    builders = [one for one, words in tree.items() if not any("resource_tracker" in word for word in words)]
    assert builders
    os.kill(generator.choice(builders).pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: group_is_gone(process.pid))


@pytest.mark.parametrize(
    ("one_pass", "launched"),
    [(False, False), (True, False), (True, True)],
    ids=["trained-processes", "given-processes", "given-mpi"],
)
def test_five_kills_of_random_processes_change_no_byte_and_redo_no_finished_task(
    corpus: Path,
    given: dict[str, Any],
    reference: dict[str, bytes],
    given_reference: dict[str, bytes],
    tmp_path: Path,
    mpiexec: tuple[str, ...],
    launched: bool,
    one_pass: bool,
) -> None:
    config, store = write_config(corpus, tmp_path, **(given if one_pass else {})), tmp_path / "store"
    launcher = mpiexec if launched else ()
    options = () if launched else ("--workers=2",)
    generator = random.Random(f"{launched} {one_pass}")
    environment = slow_environment(tmp_path, 0.05)
    kept: dict[Path, int] = {}
    for _ in range(5):
        process = subprocess.Popen(
            [*launcher, *command(config, *options)],
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        before, more = len(records(store)), generator.randint(1, 3)
        wait_for(lambda wanted=before + more: len(records(store)) >= wanted, process)
        time.sleep(generator.random() * 0.1)
        kill_one(process, generator)
        found = records(store)
        assert len(found) >= before + more
        assert kept.items() <= found.items(), "a finished task was done again"
        kept = found
    build(config, *options, launcher=launcher)
    assert store_bytes(store) == (given_reference if one_pass else reference)


def test_no_worker_outlives_a_killed_build(corpus: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(write_config(corpus, tmp_path), "--workers=2"),
        stderr=subprocess.DEVNULL,
        env=slow_environment(tmp_path, 0.3),
        start_new_session=True,
    )
    wait_for(lambda: bool(records(tmp_path / "store", "read-*.npz")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: group_is_gone(process.pid))


@pytest.mark.parametrize(("workers", "one_pass"), [(1, False), (2, True)], ids=["trained", "given"])
def test_a_full_disk_is_one_line_and_the_build_continues_when_there_is_space(
    corpus: Path,
    given: dict[str, Any],
    reference: dict[str, bytes],
    given_reference: dict[str, bytes],
    tmp_path: Path,
    workers: int,
    one_pass: bool,
) -> None:
    config = write_config(corpus, tmp_path, **(given if one_pass else {}))
    result = subprocess.run(
        command(config, f"--workers={workers}"),
        capture_output=True,
        text=True,
        # The size of a file stands in for that of the disk: a record or a shard is larger.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
        check=False,
    )
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("electra-data: error: disk full")]
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "store" / "manifest.json").exists()
    build(config, f"--workers={workers}")
    assert store_bytes(tmp_path / "store") == (given_reference if one_pass else reference)
