"""A run over two hosts by `deepspeed --launcher openmpi`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.lifecycle.status import read_status
from tests.support.fixtures.namespaces import ADDRESSES, FarHosts
from tests.support.fixtures.runs import ROOT, end, rows, run, start
from tests.support.fixtures.ssh import processes_of
from tests.support.waiting import wait_for_rows

pytestmark = pytest.mark.slow

VARIABLES = {
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "eth0",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    # The environment of the tests has another MPI too.
    "MPI4PY_MPIABI": "openmpi",
}


def test_a_killed_rank_ends_the_run_on_both_hosts_and_the_next_one_finishes(
    far_hosts: FarHosts, recipe_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (far_hosts.folder / "mpirun").symlink_to("/usr/bin/mpirun.openmpi")
    monkeypatch.setenv("PATH", f"{far_hosts.folder}:{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin")
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    (tmp_path / "hostfile").write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
    (tmp_path / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in VARIABLES.items()))
    mpi = "--mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 --bind-to none"
    command = ["deepspeed", "--hostfile", "hostfile", "--launcher", "openmpi", "--launcher_args"]
    command += [f"{mpi} --mca plm_rsh_agent {far_hosts.ssh}", "--module", "electra_scale.pretrain"]
    folder = tmp_path / "run"
    command = far_hosts.on_first([*command, "--config", str(recipe_file()), "--run_dir", str(folder)])

    process = start([*command, "--schedule.steps", "100000"], tmp_path)
    try:
        wait_for_rows(folder, 8, process, 300)
        ranks = [one for one in processes_of(folder) if one.environ().get("OMPI_COMM_WORLD_RANK") == "1"]
        ranks[-1].kill()
        out, err = process.communicate(timeout=60)
        assert process.returncode != 0, out + err
        assert not processes_of(folder)
    finally:
        for left in processes_of(folder):
            left.kill()
        end(process)

    reached = checkpoint.newest(folder / "checkpoints")
    assert reached is not None
    result = run([*command, "--schedule.steps", str(reached.step + 10), "--resume", "auto"], tmp_path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert read_status(folder).finished
    assert [row["step"] for row in rows(folder)] == list(range(1, len(rows(folder)) + 1))
