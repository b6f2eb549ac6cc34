"""Paths for libraries that put them into patterns of files and into regular expressions as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PLAIN = re.compile(r"[\w./-]*", re.ASCII)
_OPEN_FILES = Path("/proc/self/fd")


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """The folder, by a path in which no character means anything but itself, while the block runs.

    It is the folder's own path unless that has such a character; then it leads through an open file of this process,
    so that nothing has to be made, renamed or removed.
    """
    if _PLAIN.fullmatch(os.fspath(folder)) or not _OPEN_FILES.is_dir():
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _OPEN_FILES / str(descriptor)
    finally:
        os.close(descriptor)
