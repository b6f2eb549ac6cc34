"""The examination on the hosts of a hostfile: one process on each, started over ssh, and ended in every case."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from math import ceil
from pathlib import Path

from data_pipeline.errors import UserError
from electra_scale.cluster.hostfile import deepspeed_env, read_hostfile
from electra_scale.doctor.examine import Checks, Report
from electra_scale.doctor.findings import Finding
from electra_scale.doctor.remote import READY, REPORT
from electra_scale.doctor.rendezvous import Rank

_EXPORTED_PREFIXES = ("NCCL", "PYTHON", "UCX", "MV2", "LD_LIBRARY_PATH")
"""How the names of the variables begin that the deepspeed launcher exports to the hosts by itself."""

_PID = "electra-scale doctor runs as "
_PAUSE = 0.05
_STAGES = 8
_GRACE = 10.0


class _Host:
    """A process on a host, and what it has printed so far."""

    def __init__(self, name: str, ssh: list[str], command: str) -> None:
        self.name = name
        self.ready = False
        self.pid: int | None = None
        self.report: str | None = None
        self.errors: deque[str] = deque(maxlen=20)
        self._ssh = ssh
        self.process = subprocess.Popen(
            [*ssh, name, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read_stdout, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        # A login shell may print lines of its own first.
        for line in self.process.stdout:
            if line.startswith(_PID):
                self.pid = int(line.removeprefix(_PID))
            elif line.startswith(REPORT):
                self.report = line.removeprefix(REPORT)
            elif line.strip() == READY:
                self.ready = True

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.strip():
                self.errors.append(line.strip())

    def send(self, value: object) -> None:
        """Send a value as a line of JSON."""
        assert self.process.stdin is not None
        # A process that has ended is found by its exit code.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(value) + "\n")
            self.process.stdin.flush()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def last_error(self) -> str:
        """The last line of its stderr, with its exit code."""
        for reader in self._readers:
            reader.join(1)
        code = self.process.poll()
        error = self.errors[-1] if self.errors else "it printed no error"
        return f"{error} (still running)" if code is None else f"{error} (code {code})"

    def close_stdin(self) -> None:
        """End its stdin, which makes the process end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        """Kill a process that has not ended: on its host, if that is still possible, and its ssh here."""
        if self.ended():
            return
        if self.pid is not None:
            kill = [*self._ssh, self.name, f"kill -KILL {self.pid}"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(kill, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_GRACE)
        self.process.kill()
        self.process.wait()


def examine_hosts(options: argparse.Namespace, checks: Checks) -> Report:
    """Examine those hosts of ``options.hostfile`` that can be reached; each of the others is a finding.

    Raises:
        UserError: there is no ssh, or the hostfile or ``.deepspeed_env`` is wrong.
    """
    names = read_hostfile(options.hostfile)
    ssh = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={ceil(checks.wait)}"]
    # With these, ssh ends when its host loses the network.
    ssh += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    if options.ssh_port is not None:
        ssh += ["-p", str(options.ssh_port)]
    command = _command()
    hosts: list[_Host] = []
    try:
        try:
            for name in names:
                hosts.append(_Host(name, ssh, command))
        except FileNotFoundError as error:
            raise UserError("doctor: ssh is not installed on this machine; install openssh-client") from error
        _wait_until(lambda: all(host.ready or host.ended() for host in hosts), checks.wait)
        ready = [host for host in hosts if host.ready and not host.ended()]
        findings = [_not_started(host, checks.wait) for host in hosts if host not in ready]
        if not ready:
            return Report([], findings, {}, 0)
        report = _examine(ready, checks, options.master_addr if ready[0] is hosts[0] else None, options.master_port)
        return Report(report.lines, [*findings, *report.findings], report.details, len(hosts))
    finally:
        _end(hosts)


def _examine(hosts: list[_Host], checks: Checks, address: str | None, port: int) -> Report:
    first, others = hosts[0], hosts[1:]
    expected = {host.name: 1 for host in hosts}
    for number, host in enumerate(hosts):
        rank = Rank(number, len(hosts), host.name, address or first.name, port, expected)
        host.send({"rank": asdict(rank), "checks": asdict(checks)})
    _wait_until(lambda: first.ended() or all(host.ended() for host in others), _STAGES * checks.wait)
    _wait_until(lambda: all(host.ended() for host in hosts), _GRACE)
    errors = {host.name: host.last_error() for host in hosts if host.process.poll() != 0}
    if first.report is None:
        errors.setdefault(first.name, "it ended without a report")
        return Report([], [_failed(name, error) for name, error in errors.items()], {}, len(hosts))
    report = json.loads(first.report)
    findings = [Finding(**finding) for finding in report["findings"]]
    named = {name for finding in findings for name in finding.where.split(", ")}
    findings += [_failed(name, error) for name, error in errors.items() if name not in named]
    return Report(report["lines"], findings, report["details"], report["nodes"])


def _command() -> str:
    """The command for a host's shell: the same python in the same folder, with the variables that deepspeed exports."""
    here = str(Path.cwd())
    variables = {name: value for name, value in os.environ.items() if name.startswith(_EXPORTED_PREFIXES)}
    variables["PYTHONPATH"] = ":".join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    variables |= deepspeed_env()
    exports = " ".join(shlex.quote(f"{name}={value}") for name, value in variables.items())
    python = shlex.join([sys.executable, "-u", "-m", "electra_scale.doctor.remote"])
    return f'cd {shlex.quote(here)} && echo "{_PID}$$" && exec env {exports} {python}'


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _not_started(host: _Host, wait: float) -> Finding:
    if not host.ended():
        return Finding(
            host.name,
            f"was not ready within {wait:g} s",
            "check the host and its file systems, or allow more time with --wait",
        )
    return Finding(
        host.name,
        f"could not be started over ssh: {host.last_error()}",
        f"check that `ssh {host.name} true` works without a password, and that {sys.executable} and {Path.cwd()} exist "
        "there too",
    )


def _failed(name: str, error: str) -> Finding:
    return Finding(name, f"its part of the examination failed: {error}", "check that host, or leave it out")


def _end(hosts: list[_Host]) -> None:
    for host in hosts:
        host.close_stdin()
    _wait_until(lambda: all(host.ended() for host in hosts), _GRACE / 2)
    killers = [threading.Thread(target=host.kill) for host in hosts]
    for killer in killers:
        killer.start()
    for killer in killers:
        killer.join()
