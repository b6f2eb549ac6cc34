"""A run over two real ssh hosts, as `deepspeed --hostfile` starts it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from electra_scale.train import checkpoint
from tests.builds import wait_for
from tests.runs import ROOT, end, rows, run, start
from tests.s3 import free_ports

HOSTS = ("127.0.0.2", "127.0.0.3")
INSTALL = "apt-get install -y --no-install-recommends openssh-server openssh-client pdsh"


@pytest.fixture
def ssh_hosts(tmp_path: Path, require_part: Callable[[bool, str], None]) -> Iterator[tuple[Path, int]]:
    """A private sshd on two loopback addresses: the folder whose ``ssh`` knows the way there, and the port."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    client = shutil.which("ssh")
    present = server is not None and client is not None and shutil.which("pdsh") is not None
    require_part(present and sys.platform == "linux", INSTALL)
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copyfile(folder / "user.pub", folder / "authorized_keys")
    with socket.socket() as probe:
        probe.bind((HOSTS[0], 0))
        port = int(probe.getsockname()[1])
    listen = "".join(f"ListenAddress {host}\n" for host in HOSTS)
    (folder / "sshd_config").write_text(
        f"Port {port}\n{listen}HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"StrictModes no\nPermitRootLogin yes\nPidFile {folder}/pid\n"
    )
    (folder / "ssh_config").write_text(
        f"Host {' '.join(HOSTS)}\n  IdentityFile {folder}/user\n  StrictHostKeyChecking no\n"
        "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    wrapper = folder / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {client} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([str(server), "-D", "-e", "-f", str(folder / "sshd_config")], start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while subprocess.run([wrapper, "-p", str(port), HOSTS[1], "true"], check=False).returncode != 0:
            assert daemon.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield folder, port
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def hostfile_command(ssh_hosts: tuple[Path, int], folder: Path, environment: pytest.MonkeyPatch) -> list[str]:
    """Start of a command over both hosts, with the files that it reads in ``folder``."""
    ssh, port = ssh_hosts
    environment.setenv("PATH", f"{ssh}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    (folder / "hostfile").write_text("".join(f"{host} slots=1\n" for host in HOSTS))
    # Read from the folder that the launcher starts in, and exported to the hosts.
    exported = {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    (folder / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in exported.items()))
    command = ["deepspeed", "--hostfile", "hostfile", "--ssh_port", str(port), "--master_addr", HOSTS[0]]
    return [*command, "--master_port", str(free_ports(1)[0]), "--module", "electra_scale.pretrain"]


def processes_of(run_folder: Path) -> list[psutil.Process]:
    """Processes, of any host, that have the run's folder on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(run_folder) in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


def test_a_hostfile_run_trains_on_both_hosts(
    ssh_hosts: tuple[Path, int], recipe_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = hostfile_command(ssh_hosts, tmp_path, monkeypatch)
    result = run([*command, "--config", str(recipe_file()), "--run_dir", str(tmp_path / "run")], tmp_path)
    assert result.returncode == 0
    state = checkpoint.newest(tmp_path / "run/checkpoints")
    assert state is not None, result.stdout[-3000:] + result.stderr[-3000:]
    assert state.finished
    assert state.world_size == 2
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 19))
    for host in HOSTS:
        assert f"{host}: " in result.stdout + result.stderr


def test_a_killed_rank_ends_the_run_on_both_hosts(
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
        wait_for(lambda: (folder / "metrics.jsonl").is_file() and len(rows(folder)) >= 3, process, 300)
        # The rank itself, not its launcher, whose command line has the run's folder as well.
        ranks = [one for one in processes_of(folder) if one.environ().get("RANK") == "1"]
        ranks[-1].kill()
        out, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert f"{HOSTS[1]}: " in out + err
        assert not processes_of(folder)
    finally:
        for left in processes_of(folder):
            left.kill()
        end(process)
