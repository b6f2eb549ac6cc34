"""Real ssh hosts on this machine: a private sshd on loopback addresses, which share file system and host name."""

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

from tests.runs import ROOT

HOSTS = ("127.0.0.2", "127.0.0.3")
NOBODY = "127.0.0.9"
"""A host where nothing listens; ``ssh`` asks it no question."""

_INSTALL = "apt-get install -y --no-install-recommends openssh-server openssh-client pdsh"


@pytest.fixture
def ssh_hosts(tmp_path: Path, require_part: Callable[[bool, str], None]) -> Iterator[tuple[Path, int]]:
    """A private sshd on two loopback addresses: the folder whose ``ssh`` knows the way there, and the port."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    present = server is not None and all(shutil.which(name) for name in ("ssh", "pdsh"))
    require_part(present and sys.platform == "linux", _INSTALL)
    with socket.socket() as probe:
        probe.bind((HOSTS[0], 0))
        port = int(probe.getsockname()[1])
    folder = tmp_path / "ssh"
    listen = "".join(f"ListenAddress {host}\n" for host in HOSTS)
    wrapper = write_ssh(folder, (*HOSTS, NOBODY), f"Port {port}\n{listen}")
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


def write_ssh(folder: Path, hosts: tuple[str, ...], listen: str) -> Path:
    """Keys, ``sshd_config`` and an ``ssh`` that gets into these hosts with them; ``listen``: where the server does."""
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copyfile(folder / "user.pub", folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"{listen}HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\n"
        f"PermitRootLogin yes\nPidFile none\n"
    )
    (folder / "ssh_config").write_text(
        f"Host {' '.join(hosts)}\n  IdentityFile {folder}/user\n  StrictHostKeyChecking no\n"
        "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    wrapper = folder / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    # The server wants it.
    Path("/run/sshd").mkdir(exist_ok=True)
    return wrapper


def use_hosts(
    ssh_hosts: tuple[Path, int], folder: Path, environment: pytest.MonkeyPatch, hosts: tuple[str, ...] = HOSTS
) -> None:
    """Put ``ssh`` on the path, and hostfile and exported variables into ``folder``, where a launcher is started."""
    environment.setenv("PATH", f"{ssh_hosts[0]}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    (folder / "hostfile").write_text("".join(f"{host} slots=1\n" for host in hosts))
    exported = {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    (folder / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in exported.items()))


def processes_of(text: str | Path) -> list[psutil.Process]:
    """Processes, of any host, that have the text on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(text) in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found
