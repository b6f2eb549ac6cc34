"""The examination on the hosts of a hostfile: one process on each, started over ssh, and surely ended again."""

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
from electra_scale.cluster.hostfile import exported_variables, read_hostfile
from electra_scale.doctor.examine import Checks, Findings
from electra_scale.doctor.remote import FOUND, READY
from electra_scale.doctor.seat import Seat
from electra_scale.doctor.verdict import Problem

_CARRIED = ("NCCL", "PYTHON", "UCX", "MV2", "LD_LIBRARY_PATH")
"""Beginnings of the variables that deepspeed carries over by itself."""

_PID = "electra-scale doctor runs as "
_PAUSE = 0.05
_STAGES = 8
_GRACE = 10.0


class _Host:
    """A process on a host, and what it has said so far."""

    def __init__(self, name: str, ssh: list[str], command: str) -> None:
        self.name = name
        self.ready = False
        self.pid: int | None = None
        self.found: str | None = None
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
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._hear, self._hear_errors)]
        for reader in self._readers:
            reader.start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        # A login shell may say something of its own first.
        for line in self.process.stdout:
            if line.startswith(_PID):
                self.pid = int(line.removeprefix(_PID))
            elif line.startswith(FOUND):
                self.found = line.removeprefix(FOUND)
            elif line.strip() == READY:
                self.ready = True

    def _hear_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.strip():
                self.errors.append(line.strip())

    def tell(self, plan: object) -> None:
        assert self.process.stdin is not None
        # One that has ended tells so by its exit code.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(plan) + "\n")
            self.process.stdin.flush()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def last_words(self) -> str:
        """What it said last, with its exit code."""
        for reader in self._readers:
            reader.join(1)
        code = self.process.poll()
        said = self.errors[-1] if self.errors else "it said nothing"
        return f"{said}, and it does not end" if code is None else f"{said} (code {code})"

    def let_go(self) -> None:
        """Its stdin ends, and so does it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> None:
        """For one that has not: kill it there, where that is still possible, and the connection here."""
        if self.ended():
            return
        if self.pid is not None:
            kill = [*self._ssh, self.name, f"kill -KILL {self.pid}"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(kill, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_GRACE)
        self.process.kill()
        self.process.wait()


def examine_hosts(options: argparse.Namespace, checks: Checks) -> Findings:
    """Examine the hosts of ``options.hostfile`` that can be reached; the others are problems.

    Raises:
        UserError: there is no ssh, or the hostfile or ``.deepspeed_env`` is wrong.
    """
    names = read_hostfile(options.hostfile)
    ssh = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={ceil(checks.wait)}"]
    # A host that is cut off in the middle ends its ssh.
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
            raise UserError("doctor: there is no ssh here; install openssh-client") from error
        _until(lambda: all(host.ready or host.ended() for host in hosts), checks.wait)
        ready = [host for host in hosts if host.ready and not host.ended()]
        problems = [_not_started(host, checks.wait) for host in hosts if host not in ready]
        if not ready:
            return Findings([], problems, {}, 0)
        findings = _examine(ready, checks, options.master_addr if ready[0] is hosts[0] else None, options.master_port)
        return Findings(findings.lines, [*problems, *findings.problems], findings.details, len(hosts))
    finally:
        _end(hosts)


def _examine(hosts: list[_Host], checks: Checks, address: str | None, port: int) -> Findings:
    first, others = hosts[0], hosts[1:]
    expected = {host.name: 1 for host in hosts}
    for rank, host in enumerate(hosts):
        seat = Seat(rank, len(hosts), host.name, address or first.name, port, expected)
        host.tell({"seat": asdict(seat), "checks": asdict(checks)})
    _until(lambda: first.ended() or all(host.ended() for host in others), _STAGES * checks.wait)
    _until(lambda: all(host.ended() for host in hosts), _GRACE)
    words = {host.name: host.last_words() for host in hosts if host.process.poll() != 0}
    if first.found is None:
        words.setdefault(first.name, "it ended without a report")
        return Findings([], [_failed(name, said) for name, said in words.items()], {}, len(hosts))
    report = json.loads(first.found)
    problems = [Problem(**problem) for problem in report["problems"]]
    named = {name for problem in problems for name in problem.where.split(", ")}
    problems += [_failed(name, said) for name, said in words.items() if name not in named]
    return Findings(report["lines"], problems, report["details"], report["nodes"])


def _command() -> str:
    """What the shell of a host is to do: the same python in the same folder, with what deepspeed carries over."""
    here = str(Path.cwd())
    variables = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
    variables["PYTHONPATH"] = ":".join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    variables |= exported_variables()
    exports = " ".join(shlex.quote(f"{name}={value}") for name, value in variables.items())
    python = shlex.join([sys.executable, "-u", "-m", "electra_scale.doctor.remote"])
    return f'cd {shlex.quote(here)} && echo "{_PID}$$" && exec env {exports} {python}'


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _not_started(host: _Host, wait: float) -> Problem:
    if not host.ended():
        return Problem(
            host.name, f"not ready in {wait:g} s", "see the host and its file systems, or give more by --wait"
        )
    return Problem(
        host.name,
        f"could not be started over ssh: {host.last_words()}",
        f"see that `ssh {host.name} true` works without a password, and that {sys.executable} and {Path.cwd()} are "
        "there too",
    )


def _failed(name: str, said: str) -> Problem:
    return Problem(name, f"its part of the examination failed: {said}", "see that host, or leave it out")


def _end(hosts: list[_Host]) -> None:
    for host in hosts:
        host.let_go()
    _until(lambda: all(host.ended() for host in hosts), _GRACE / 2)
    enders = [threading.Thread(target=host.end) for host in hosts]
    for ender in enders:
        ender.start()
    for ender in enders:
        ender.join()
