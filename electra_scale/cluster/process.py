"""A process as others can know it: where it runs, since when, and whether it is gone."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["alive", "gone", "unknown"]

_PROC = Path("/proc")
_STOPPED, _DEAD = "Tt", "ZXx"
# Of include/linux/sched.h: it has begun to exit.
_EXITING = 0x4


@dataclass(frozen=True)
class Process:
    """Which process on which host. Its number alone is not enough: numbers are used again.

    ``boot`` and ``namespace`` name the running kernel and the process namespace, in which alone ``pid`` means
    anything: a container has one of its own, and its host name may be that of another machine's container. ``started``
    is in clock ticks since the boot. All three are empty or 0 where the system does not tell.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: int
    since: str

    def state(self) -> State:
        """Whether it lives, as far as this process can see: not from another host, container or boot.

        A process that is stopped (Ctrl-Z, a debugger, a frozen container) may never continue, so that is unknown too;
        and so is one that has been killed and is not gone yet, which takes a while with much memory.
        """
        if not self.boot or not self.namespace or (self.boot, self.namespace) != _kernel():
            return "unknown"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return "gone"
        except OSError:
            pass
        found = _stat(self.pid)
        if found is None:
            return "unknown"
        status, started, exiting = found
        if started != self.started or status in _DEAD:
            return "gone"
        return "unknown" if status in _STOPPED or exiting or _is_killed(self.pid) else "alive"


def this_process() -> Process:
    """The process that calls this."""
    found = _stat(os.getpid())
    boot, namespace = _kernel()
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return Process(socket.gethostname(), boot, namespace, os.getpid(), found[1] if found else 0, since)


def _kernel() -> tuple[str, str]:
    """The boot of the running kernel and the process namespace; empty where the system does not tell."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return boot, os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return "", ""


def _stat(pid: int) -> tuple[str, int, bool] | None:
    """State and start of a process, and whether it has begun to exit; None if they can't be read."""
    try:
        # The name, in parentheses, may hold blanks and parentheses itself.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19]), bool(int(fields[6]) & _EXITING)
    except (OSError, IndexError, ValueError):
        return None


def _is_killed(pid: int) -> bool:
    """Whether a SIGKILL waits for a process: it runs no instruction of its own any more."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
        waiting = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    except (OSError, IndexError, ValueError):
        return False
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in waiting)
