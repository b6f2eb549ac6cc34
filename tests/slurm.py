"""A real SLURM cluster on this host: munge, one controller and two nodes, all of it in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.s3 import free_ports

NODES = ("n1", "n2")
_INSTALL = "apt-get install --no-install-recommends slurm-wlm munge"

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
InactiveLimit=0
KillWait=5
MinJobAge=300
Waittime=0
JobRequeue=1
SlurmdParameters=config_overrides
TmpFS=/tmp
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=60 State=UP OverSubscribe=NO
"""


@dataclass
class SlurmCluster:
    """A running cluster of :data:`NODES`, two cores each."""

    folder: Path
    environment: dict[str, str]
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start all daemons; returns once every node is idle."""
        for name in ("state", "log", "run", "munge", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        munge = self.folder / "munge"
        munge.chmod(0o700)
        key = munge / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        ports = free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Sockets=1 CoresPerSocket=2 "
            "ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                host=host, controller=ports[0], folder=self.folder, nodes=nodes, names=",".join(NODES)
            )
        )
        options = ["-S", str(munge / "munge.sock"), f"--key-file={key}", f"--pid-file={self.folder}/run/munged.pid"]
        options += [f"--log-file={self.folder}/log/munged.log", f"--seed-file={munge}/seed"]
        self._start("munged", ["munged", "-F", "--force", "--num-threads=2", *options])
        self._wait(lambda: (munge / "munge.sock").exists())
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        for node in NODES:
            self.start_node(node)
        self._wait(lambda: self.run("sinfo", "-h", "-o", "%t %D").stdout.split() == ["idle", str(len(NODES))])

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._start(node, ["slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf")])

    def kill_node(self, node: str) -> None:
        """SIGKILL for a node's daemon; what it started lives on, out of the controller's reach."""
        process = self._processes[node]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(
        self, *command: str, timeout: float = 120, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands against this cluster."""
        environment = {**self.environment, **variables}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd
        )

    def job(self, number: str) -> dict[str, str]:
        """What the controller says about a job, by the names of ``scontrol show job``."""
        shown = self.run("scontrol", "show", "job", "-o", number).stdout.split()
        return dict(word.split("=", 1) for word in shown if "=" in word)

    def stop(self) -> None:
        """End every job, then every daemon: what a node has started outlives it."""
        if "slurmctld" in self._processes:
            self.run("scancel", "--user=root")
            deadline = time.monotonic() + 20
            while self.run("squeue", "-h").stdout and time.monotonic() < deadline:
                time.sleep(0.2)
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted((self.folder / "log").iterdir()))

    def _start(self, name: str, command: list[str]) -> None:
        self._processes[name] = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster for the whole session."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        reason = f"needs root and {', '.join(missing) or 'nothing else'}: {_INSTALL}"
        if os.environ.get("REQUIRE_PARTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    cluster = SlurmCluster(folder, {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
