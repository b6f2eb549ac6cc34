"""Starts the ranks of a run on this host and nothing else: ``python start_ranks.py RANKS PORT -m module arguments``.

A launcher imports torch before each rank does it again; where the launcher is not what a test is about, that is half
of its time. Like a launcher it ends every rank when one fails, and exits with that rank's code.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time


def main(ranks: int, port: str, command: list[str]) -> int:
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            [sys.executable, *command], env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(ranks)
    ]
    failed = 0
    while running and not failed:
        time.sleep(0.02)
        codes = [process.poll() for process in running]
        failed = next((code for code in codes if code), 0)
        running = [process for process in running if process.poll() is None]
    for process in running:
        process.kill()
        process.wait()
    return failed if failed >= 0 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
