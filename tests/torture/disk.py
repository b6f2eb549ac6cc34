"""A small disk that can be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOUNT = "root, or CAP_SYS_ADMIN, to mount a tmpfs"


class SmallDisk:
    """A file system of its own, with a ballast file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Let the ballast grow until only so many bytes are free."""
        size = self._ballast.stat().st_size if self._ballast.exists() else 0
        status = os.statvfs(self.folder)
        more = (status.f_bavail * status.f_frsize - leave) // status.f_frsize * status.f_frsize
        if more <= 0:
            return
        with self._ballast.open("ab") as file:
            try:
                os.posix_fallocate(file.fileno(), size, more)
            except OSError:
                # Somebody else was faster; the next call takes what is left.
                return

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk | None]:
    """Mount a tmpfs of that size on a folder; None where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield SmallDisk(folder) if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
