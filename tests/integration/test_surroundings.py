"""Builds and runs in poor surroundings give the same store and the same run, or one line that says what to do."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fixtures.builds import command, store_bytes, write_config
from tests.support.fixtures.runs import environment, write_recipe

pytestmark = pytest.mark.slow

Refusing = Callable[[str, int], dict[str, str]]
MOUNT = "root, or CAP_SYS_ADMIN, and unshare (util-linux), to mount for one process"


@pytest.fixture(scope="module")
def usual(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store that a build of the small corpus gives in usual surroundings."""
    folder = tmp_path_factory.mktemp("usual")
    assert started(command(write_config(small_corpus, folder), "--workers", "1")).returncode == 0
    return store_bytes(folder / "store")


def started(arguments: list[str], mounts: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, after mounts that only it sees."""
    if mounts:
        arguments = ["unshare", "--mount", "sh", "-c", f"{mounts} && exec {shlex.join(arguments)}"]
    return subprocess.run(
        arguments, capture_output=True, text=True, env={**environment(), **variables}, check=False, timeout=240
    )


def may_mount() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def pretrain(recipe: Path, folder: Path) -> list[str]:
    small = ["--generator_warmup.steps", "0", "--schedule.steps", "2", "--schedule.warmup_steps", "1"]
    small += ["--logging.evaluate_every", "100", "--logging.probe_every", "0", "--checkpoint.every", "1"]
    return [sys.executable, "-m", "electra_scale.pretrain", "--config", str(recipe), "--run_dir", str(folder), *small]


def test_a_temporary_folder_whose_path_is_long_is_no_matter(
    small_corpus: Path, tmp_path: Path, usual: dict[str, bytes]
) -> None:
    long = tmp_path / ("t" * 80)
    long.mkdir()
    result = started(command(write_config(small_corpus, tmp_path), "--workers", "2"), TMPDIR=str(long))
    assert result.returncode == 0, result.stderr
    assert store_bytes(tmp_path / "store") == usual
    assert list(long.iterdir()) == []


def test_without_shared_memory_one_process_builds_the_same_store_and_says_so(
    small_corpus: Path, tmp_path: Path, usual: dict[str, bytes], require_part: Callable[[bool, str], None]
) -> None:
    require_part(may_mount(), MOUNT)
    build = command(write_config(small_corpus, tmp_path), "--workers", "2")
    result = started(build, "mount -t tmpfs -o ro,size=64k none /dev/shm")
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert "works alone instead of 2 workers" in line
    assert "/dev/shm (Read-only file system)" in line
    assert "Traceback" not in result.stderr
    assert store_bytes(tmp_path / "store") == usual


def test_where_no_temporary_folder_can_be_written_one_line_says_so(
    small_corpus: Path, store: Path, tmp_path: Path, require_part: Callable[[bool, str], None]
) -> None:
    require_part(may_mount(), MOUNT)
    # Everything that Python would try is there, but read-only; the test's own folder is not.
    kept = f"mount --bind {tmp_path} {tmp_path}"
    folders = [folder for folder in ("/tmp", "/var/tmp", "/usr/tmp") if Path(folder).is_dir()]
    closed = " && ".join(f"mount --bind {it} {it} && mount -o remount,bind,ro {it}" for it in folders)
    mounts = f"{closed} && {kept} && mount -o remount,bind,rw {tmp_path} && cd /proc"
    recipe = write_recipe(tmp_path, store)
    for arguments in (
        command(write_config(small_corpus, tmp_path), "--workers", "1"),
        pretrain(recipe, tmp_path / "run"),
        [sys.executable, "-m", "electra_scale.cli", "doctor"],
    ):
        result = started(arguments, mounts, TMPDIR="/nowhere")
        assert result.returncode == 2, result.stderr
        last = result.stderr.splitlines()[-1]
        assert "error: " in last
        assert "there is no temporary folder: TMPDIR, which is /nowhere" in last
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("calls", ["fsync-folders flock", "fsync-all"])
def test_a_file_system_that_refuses_to_flush_is_written_to_all_the_same_and_a_line_says_so(
    calls: str, small_corpus: Path, store: Path, tmp_path: Path, usual: dict[str, bytes], refusing: Refusing
) -> None:
    number = errno.ENOLCK if "flock" in calls else errno.EINVAL
    arguments = [command(write_config(small_corpus, tmp_path), "--workers", "2")]
    if calls == "fsync-all":
        arguments.append(pretrain(write_recipe(tmp_path, store), tmp_path / "run"))
    for each in arguments:
        result = started(each, **refusing(calls, number))
        assert result.returncode == 0, result.stderr
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning")]
        assert f"cannot be flushed to disk ({os.strerror(number)})" in line
    assert store_bytes(tmp_path / "store") == usual


def test_a_file_system_without_locks_or_renames_is_refused_in_one_line(
    small_corpus: Path, store: Path, tmp_path: Path, refusing: Refusing
) -> None:
    recipe = write_recipe(tmp_path, store, **{"data.cache": {"folder": str(tmp_path / "cache")}})
    result = started(pretrain(recipe, tmp_path / "run"), **refusing("flock", errno.ENOLCK))
    assert result.returncode == 2, result.stderr
    assert f"cannot use the cache folder {tmp_path / 'cache'} (No locks available)" in result.stderr
    assert "Traceback" not in result.stderr
    result = started(command(write_config(small_corpus, tmp_path)), **refusing("rename", errno.ENOSYS))
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("electra-data: error: cannot write")
    assert "Traceback" not in result.stderr
