"""Starts the ranks of a program on this machine without a launcher, whose own start no benchmark means to measure."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any


def start_ranks(
    number: int,
    arguments: Sequence[str],
    output: int | IO[Any],
    errors: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[subprocess.Popen[bytes]]:
    """Start python with ``arguments`` once a rank, in the order of the ranks.

    ``output`` and ``errors`` are where stdout and stderr go, as ``subprocess`` takes them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    size = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    shared = {**os.environ, **(environment or {}), **size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=output,
            stderr=errors,
        )
        for rank in range(number)
    ]


def end_ranks(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGKILL for every rank that still runs, and wait until it is gone."""
    for process in processes:
        process.kill()
        process.wait()
