"""Hosts with addresses of their own on this machine: network namespaces on one bridge, each with an sshd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ssh import write_ssh

_INSTALL = "apt-get install -y --no-install-recommends iproute2 openssh-server openssh-client openmpi-bin, as root"
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@dataclass(frozen=True)
class FarHosts:
    """Hosts at :data:`ADDRESSES` behind their ``eth0``; they share the file system and the host name."""

    folder: Path
    names: tuple[str, ...]

    @property
    def ssh(self) -> Path:
        """An ssh that knows the way from one to another."""
        return self.folder / "ssh"

    def on_first(self, command: list[str]) -> list[str]:
        """The command, as it is started on the first host."""
        return ["ip", "netns", "exec", self.names[0], *command]


@pytest.fixture
def far_hosts(tmp_path: Path, require_part: Callable[[bool, str], None]) -> Iterator[FarHosts]:
    """Two hosts that reach each other over a bridge."""
    paths = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    server = shutil.which("sshd", path=paths)
    present = server is not None and all(shutil.which(name, path=paths) for name in ("ip", "ssh", "mpirun.openmpi"))
    require_part(present and os.getuid() == 0, _INSTALL)
    folder = tmp_path / "far"
    names = tuple(f"es{os.getpid()}h{number}" for number in range(len(ADDRESSES)))
    hosts, bridge = FarHosts(folder, names), f"es{os.getpid()}br"
    with ExitStack() as stack:
        for name in (bridge, *names):
            _run("ip", "netns", "add", name)
            stack.callback(_remove, name)
        _run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "br0", "up")
        for number, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            port = f"port{number}"
            _run("ip", "-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "-n", bridge, "link", "set", port, "master", "br0", "up")
            _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
        write_ssh(folder, ADDRESSES, "")
        for name in names:
            daemon = ["ip", "netns", "exec", name, str(server), "-D", "-e", "-f", str(folder / "sshd_config")]
            subprocess.Popen(daemon, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 20
        while subprocess.run(hosts.on_first([str(hosts.ssh), ADDRESSES[1], "true"]), check=False).returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield hosts


def _remove(name: str) -> None:
    """End what runs in a namespace, and the namespace."""
    running = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
    for process in running.stdout.split():
        try:
            os.kill(int(process), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _run("ip", "netns", "del", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
