"""``electra-scale doctor`` over real ssh hosts and as the tasks of a real srun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.fixtures.runs import ROOT, environment, run, start
from tests.support.fixtures.s3 import S3Server, free_ports
from tests.support.fixtures.slurm import SlurmCluster
from tests.support.fixtures.ssh import HOSTS, NOBODY, processes_of, use_hosts
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

REMOTE = "electra_scale.doctor.remote"
DOCTOR = [sys.executable, "-m", "electra_scale.cli", "doctor"]


def over_ssh(ssh_hosts: tuple[Path, int], *options: str | Path) -> list[str]:
    command = [*DOCTOR, "--hostfile", "hostfile", "--ssh_port", str(ssh_hosts[1])]
    return [*command, "--master_port", str(free_ports(1)[0]), *map(str, options)]


def problems(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.startswith("problem: ")]


def test_two_healthy_hosts_have_a_line_each_and_code_0(
    ssh_hosts: tuple[Path, int], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hosts(ssh_hosts, tmp_path, monkeypatch)
    result = run(over_ssh(ssh_hosts, "--store", store, "--run_dir", "run", "--json", "found.json"), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == list(HOSTS)
    assert lines[-1].startswith("result: healthy, 2 nodes")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["all_reduce"]["right"] is True
    assert [pair["nodes"] for pair in found["pairs"]] == [[0, 1]]
    assert all(pair["rate"] > 0 for pair in found["pairs"])
    # Both read the store, and neither leaves anything in the run folder.
    assert all(reading["bytes"] > 0 for reading in found["stores"])
    assert list((tmp_path / "run").iterdir()) == []


def test_each_fault_of_a_host_is_named_with_it(
    ssh_hosts: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command for several faults: the first host does not listen, and the last one differs from the second."""
    use_hosts(ssh_hosts, tmp_path, monkeypatch, (NOBODY, *HOSTS))
    (tmp_path / "numpy/numpy-0.0.1.dist-info").mkdir(parents=True)
    (tmp_path / "numpy/numpy-0.0.1.dist-info/METADATA").write_text("Name: numpy\nVersion: 0.0.1\n")
    # The hosts share one clock and one disk: here the last one's clock is ahead, and it does not see the first's files.
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, sys, time

if " {HOSTS[1]} " in os.environ.get("SSH_CONNECTION", ""):
    sys.path.insert(0, {str(tmp_path / "numpy")!r})
    now, is_file = time.time, os.path.isfile
    time.time = lambda: now() + 120
    os.path.isfile = lambda path: ".doctor-" not in str(path) and is_file(path)
""")
    with (tmp_path / ".deepspeed_env").open("a") as file:
        file.write(f"PYTHONPATH={tmp_path}:{ROOT}\n")
    result = run(over_ssh(ssh_hosts, "--short", "--store", tmp_path / "nowhere"), tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    beginnings = [
        f"problem: {NOBODY}: could not be started over ssh: ssh: connect to host {NOBODY}",
        f"problem: {HOSTS[1]}: has numpy 0.0.1, the other nodes have ",
        f"problem: all nodes: the store {tmp_path}/nowhere cannot be read: no store at",
        f"problem: {HOSTS[1]}: the run folder . is not shared with the first node",
        f"warning: {HOSTS[1]}: its clock is 120.0 s ahead of {HOSTS[0]}'s",
    ]
    found = [line for line in result.stdout.splitlines() if line.startswith(("problem", "warning"))]
    assert len(found) == len(beginnings), result.stdout
    for line, beginning in zip(found, beginnings, strict=True):
        assert line.startswith(beginning)
    assert "over 2 ranks: the sum is right" in result.stdout


def test_a_store_that_does_not_answer_is_a_problem_of_these_nodes_only(
    s3: str, s3_server: S3Server, tmp_path: Path
) -> None:
    nobody = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}", "ELECTRA_SCALE_S3_ATTEMPTS": "1"}
    command = [*DOCTOR, "--short", "--store", s3]
    result = subprocess.run(
        command, env=environment() | nobody, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1, result.stdout + result.stderr
    (problem,) = problems(result)
    assert f"the store {s3} cannot be read" in problem


def is_python(process: psutil.Process) -> bool:
    try:
        return process.name().startswith("python")
    except psutil.NoSuchProcess:
        return False


def test_nothing_is_left_running_when_the_command_is_killed(
    ssh_hosts: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hosts(ssh_hosts, tmp_path, monkeypatch, (HOSTS[0], HOSTS[1]))
    process = start(over_ssh(ssh_hosts), tmp_path)
    wait_for(lambda: len([one for one in processes_of(REMOTE) if is_python(one)]) == 2, process, 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not processes_of(REMOTE), None, 30)


def srun(cluster: SlurmCluster, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command with one task on each of two nodes."""
    options = ["--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=3"]
    variables = environment() | {"GLOO_SOCKET_IFNAME": "lo"}
    return cluster.run("srun", *options, *map(str, command), cwd=folder, timeout=200, **variables)


def test_the_tasks_of_an_srun_examine_their_nodes(
    slurm: SlurmCluster, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    result = srun(slurm, tmp_path, *DOCTOR, "--short", "--config", recipe_file(), "--run_dir", "run")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["n1", "n2"]
    assert all(line.split()[-1] == "readable" for line in lines[1:3])
    assert lines[-1] == "result: healthy, 2 nodes"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("command.run_doctor", "problem: n2: rank 1 of 2 did not connect within 12 s"),
        ("links.Links.all_reduce", "problem: n2: rank 1 did not answer within 12 s at stage all-reduce"),
    ],
)
def test_a_task_that_hangs_is_named(slurm: SlurmCluster, tmp_path: Path, place: str, sentence: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import os, signal, sys
from electra_scale.cli import main
from electra_scale.doctor import command, links

if os.environ["SLURM_PROCID"] == "1":
    {place} = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)
sys.exit(main())
""")
    result = srun(slurm, tmp_path, sys.executable, program, "doctor", "--short", "--wait=12")
    assert result.returncode != 0
    assert sentence in result.stdout, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "result: 1 problem"
