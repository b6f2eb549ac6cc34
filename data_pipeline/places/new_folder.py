"""A new folder for a user's results, which is there whole or not at all: at a new path, behind a link, on a mount."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import cannot_write

_OF_A_NEW_DISK = "lost+found"
"""What a file system holds before anybody has written to it."""

_OF_A_LIBRARY = re.compile(r"\b(?:os error|code:) (\d+)\b")
"""The system's error in the words of a library that writes by itself (safetensors)."""


def free_folder(path: Path, what: str) -> Path:
    """The folder that ``path`` stands for, links followed, after a check that nothing is there that could be lost.

    Raises:
        UserError: it is a file, holds something, or can't be looked at; ``what`` names the thing to be written there.
    """
    try:
        real = path.expanduser().resolve()
        if real.exists() and not real.is_dir():
            raise UserError(f"{what} target {path} is a file; choose a folder")
        taken = real.is_dir() and any(entry.name != _OF_A_NEW_DISK for entry in real.iterdir())
    except (OSError, RuntimeError, ValueError) as error:
        # Links that go in a circle are a RuntimeError before Python 3.13; a null byte is a ValueError.
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot look at {what} target {path}: {reason}; check the path and its permissions") from error
    if taken:
        raise UserError(f"{what} target {path} exists and is not empty; choose another folder or remove it")
    return real


@contextmanager
def new_folder(path: Path, what: str) -> Iterator[Path]:
    """Yield an empty folder; after the block what was written there is at ``path``, after a failure nothing is.

    A folder that exists, and is empty, stays: it may be a mount point, or have owners and modes of its own.

    Raises:
        UserError: see :func:`free_folder`; the disk is full, or the path can't be written.
    """
    real = free_folder(path, what)
    there = real.is_dir()
    home = real if there else real.parent
    made = [parent for parent in (home, *home.parents) if not parent.exists()]
    done: list[Path] = []
    try:
        home.mkdir(parents=True, exist_ok=True)
        done.append(Path(tempfile.mkdtemp(prefix=f".{real.name}.partial-", dir=home)))
        partial = done[0]
        yield partial
        if there:
            for entry in sorted(partial.iterdir()):
                entry.rename(real / entry.name)
                done.append(real / entry.name)
            partial.rmdir()
        else:
            # mkdtemp makes it private to this user; the result should be as readable as any new folder.
            partial.chmod(home.stat().st_mode & 0o777)
            partial.rename(real)
    except BaseException as error:
        for one in done:
            shutil.rmtree(one, ignore_errors=True)
            with suppress(OSError):
                one.unlink()
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError) and error.errno is not None:
            raise cannot_write(path, error) from error
        number = _OF_A_LIBRARY.search(str(error))
        if number is not None:
            raise cannot_write(path, OSError(int(number[1]), os.strerror(int(number[1])))) from error
        raise
