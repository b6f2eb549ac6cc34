"""A run over two real ssh hosts, as `deepspeed --hostfile` starts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from electra_scale.train.checkpoint import state as checkpoint
from tests.support.fixtures.runs import end, rows, run, start
from tests.support.fixtures.s3 import free_ports
from tests.support.fixtures.ssh import HOSTS, processes_of, use_hosts
from tests.support.waiting import wait_for_rows

pytestmark = pytest.mark.slow


def hostfile_command(ssh_hosts: tuple[Path, int], folder: Path, environment: pytest.MonkeyPatch) -> list[str]:
    """Start of a command over both hosts, with the files that it reads in ``folder``."""
    use_hosts(ssh_hosts, folder, environment)
    command = ["deepspeed", "--hostfile", "hostfile", "--ssh_port", str(ssh_hosts[1]), "--master_addr", HOSTS[0]]
    return [*command, "--master_port", str(free_ports(1)[0]), "--module", "electra_scale.pretrain"]


def test_a_hostfile_run_trains_on_both_hosts(
    ssh_hosts: tuple[Path, int], recipe_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = hostfile_command(ssh_hosts, tmp_path, monkeypatch)
    # Relative to the folder that the launcher starts in, which ssh alone would not enter.
    result = run([*command, "--config", recipe_file().name, "--run_dir", "run"], tmp_path)
    assert result.returncode == 0
    state = checkpoint.newest(tmp_path / "run/checkpoints")
    assert state is not None, result.stdout[-3000:] + result.stderr[-3000:]
    assert state.finished
    assert state.world_size == 2
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 19))
    for host in HOSTS:
        assert f"{host}: " in result.stdout + result.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run_on_both_hosts(
    rank: int,
    ssh_hosts: tuple[Path, int],
    recipe_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = hostfile_command(ssh_hosts, tmp_path, monkeypatch)
    folder = tmp_path / "run"
    recipe = recipe_file(**{"schedule.steps": 100_000})
    process = start([*command, "--config", str(recipe), "--run_dir", str(folder)], tmp_path)
    try:
        wait_for_rows(folder, 3, process, 300)
        # The rank itself, not its launcher, whose command line has the run's folder as well.
        ranks = [one for one in processes_of(folder) if one.environ().get("RANK") == str(rank)]
        ranks[-1].kill()
        out, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert f"{HOSTS[rank]}: " in out + err
        assert not processes_of(folder)
    finally:
        for left in processes_of(folder):
            left.kill()
        end(process)
