"""Files that appear whole or not at all, and the checksums they are known by."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.progress import log

_CHUNK = 1 << 20


_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What fsync says where data is lost. By any other error a file system says that it cannot do it."""

_reported = False


def sync(descriptor: int, path: Path) -> None:
    """Have a file or folder, open as ``descriptor``, on disk, as far as its file system can do that.

    Some network and FUSE file systems refuse it, most of them for folders only. A file is then still written whole or
    not at all, but a power cut may take back what was written last; the first time a line says so.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _LOST:
            raise
        _report_refusal(path, str(error.strerror))


def _report_refusal(path: Path, reason: str) -> None:
    global _reported
    # Workers of a build and the other ranks of a run write to the same file systems.
    if not _reported and multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":
        log(
            f"warning: {path} cannot be flushed to disk ({reason}), so a power cut may take back what was written "
            "last; other files of this file system are not mentioned"
        )
    _reported = True


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError as error:
        # One may be allowed to write into a folder and not to read it.
        _report_refusal(folder, str(error.strerror))
        return
    try:
        sync(descriptor, folder)
    finally:
        os.close(descriptor)


def disk_full(error: OSError) -> bool:
    """Whether writing failed for lack of space, or for a limit on a file's size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(path: Path, error: OSError) -> UserError:
    """What to report where writing ``path`` failed."""
    if disk_full(error):
        return UserError(f"disk full while writing {path}: free some space and run again")
    return UserError(f"cannot write {path}: {error.strerror}; check the path and its permissions")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success sync it and rename it to ``path``.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    # The process id keeps an orphan of a killed build from writing into our half-finished file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            sync(file.fileno(), path)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
