"""A bounded folder of a store's files on the node's own disk, shared by all processes of the node.

Files are named by their SHA-256, so that what is there is right whichever store or run put it there. All state is in
plain files and ``flock``: a lock goes with the process that holds it, however that ends, so ``kill -9`` leaves at most
a ``.part`` file that nobody has locked, and the next process removes it. There is no shared memory.

A file that is evicted while a process has it mapped stays readable for that process until it unmaps it (POSIX); the
folder no longer counts it, the disk frees it then. :class:`electra_scale.data.split.Split` bounds what it keeps mapped.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import disk_full, sha256_of, sync_folder
from data_pipeline.places.place import Missing, Place

_PART = ".part"
_LOCK = ".lock"
_BLOCK = 4096
_TRIES = 3
_OURS = re.compile(r"[0-9a-f]{64}")


@dataclass
class Fetched:
    """What one process took from the store: whole files, their bytes, and tries that gave damaged ones."""

    files: int = 0
    bytes: int = 0
    errors: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, files: int = 0, size: int = 0, errors: int = 0) -> None:
        with self._lock:
            self.files += files
            self.bytes += size
            self.errors += errors


class Cache:
    """At most ``limit`` bytes of files in ``folder``, those being downloaded included; any number of processes and
    threads use it at once. Raises UserError if the folder can't be made."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.fetched = Fetched()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the cache folder {folder}: {error.strerror}; set data.cache.folder to a writable one"
            ) from error

    def get(self, place: Place, name: str, sha256: str, size: int) -> Path:
        """Path of the file ``name`` of ``place``; another process may evict it at any time, so see :meth:`open`."""
        with self.open(place, name, sha256, size) as file:
            return Path(file.name)

    def open(self, place: Place, name: str, sha256: str, size: int) -> BinaryIO:
        """The file ``name`` of ``place``, downloaded and verified once if it is not there.

        Of several processes that want it, one downloads it and the others wait for that.

        Raises:
            UserError: the file is larger than the limit, the disk is full, the store holds another file than
                ``sha256`` and ``size`` say; and what ``place`` raises.
        """
        target = self.folder / f"{sha256}{PurePosixPath(name).suffix}"
        if _on_disk(size) > self.limit:
            raise UserError(
                f"{name} of {place.url} has {size:,} bytes, the cache {self.folder} may hold {self.limit:,}: "
                "raise data.cache.limit_gb"
            )
        while True:
            with self.locked():
                found = _open_whole(target, size)
                if found is not None:
                    return found
                awaited = _busy(_part_of(target)) or self._make_room(size)
                part = None if awaited is not None else _new_part(_part_of(target), size)
            if awaited is not None:
                # Granted when its owner has finished or died; then look again.
                with awaited:
                    fcntl.flock(awaited, fcntl.LOCK_EX)
            elif part is not None:
                return self._download(place, name, sha256, size, part, target)

    def used(self) -> int:
        """Bytes that the folder takes on disk."""
        return sum(taken for _, taken, _ in self._files())

    def _download(self, place: Place, name: str, sha256: str, size: int, part: BinaryIO, target: Path) -> BinaryIO:
        path = Path(part.name)
        try:
            self._fetch(place, name, sha256, size, path)
            os.fsync(part.fileno())
            # Under the lock, so that nobody sees neither of the two names, and nobody evicts it before it is open.
            with self.locked():
                os.rename(path, target)
                sync_folder(self.folder)
                return open(target, "rb")
        finally:
            path.unlink(missing_ok=True)
            part.close()

    def _fetch(self, place: Place, name: str, sha256: str, size: int, part: Path) -> None:
        entry = place.stat(name)
        if entry is None:
            raise Missing(f"{name} is missing from {place.url}: restore it or build the store again")
        if entry.size != size:
            raise UserError(
                f"{name} of {place.url} has {entry.size:,} bytes, the manifest says {size:,}: "
                "restore the file or build the store again"
            )
        found = ""
        for _ in range(_TRIES):
            place.fetch(name, part)
            found = sha256_of(part)
            if found == sha256:
                self.fetched.add(files=1, size=size)
                return
            self.fetched.add(errors=1)
        raise UserError(
            f"{name} of {place.url} has SHA-256 {found}, the manifest says {sha256} ({_TRIES} tries): "
            "run `electra-data verify`, then restore the file or build the store again"
        )

    def _make_room(self, size: int) -> BinaryIO | None:
        """Evict until ``size`` more bytes fit; a download to wait for if only those take the space."""
        waiting: BinaryIO | None = None
        evictable = []
        total = _on_disk(size)
        for path, taken, used in self._files():
            if path.suffix == _PART:
                running = _busy(path)
                if running is None:
                    continue
                if waiting is None:
                    waiting = running
                else:
                    running.close()
            elif path.parent == self.folder and _OURS.fullmatch(path.stem):
                evictable.append((used, path, taken))
            total += taken
        for _, path, taken in sorted(evictable):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= taken
        if total <= self.limit:
            if waiting is not None:
                waiting.close()
            return None
        if waiting is None:
            raise UserError(
                f"the cache {self.folder} may hold {self.limit:,} bytes, and {total - _on_disk(size):,} of them are "
                "taken by files that cannot go: raise data.cache.limit_gb"
            )
        return waiting

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        """Every file: path, bytes on disk, time of last use in nanoseconds."""
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = Path(parent, name)
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                yield path, max(status.st_size, status.st_blocks * 512), status.st_mtime_ns

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes the folder meanwhile."""
        with open(self.folder / _LOCK, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _part_of(target: Path) -> Path:
    return target.with_suffix(_PART)


def _open_whole(target: Path, size: int) -> BinaryIO | None:
    """The finished file, marked as used; None if there is none. One of another size was damaged, and goes."""
    try:
        if target.stat().st_size == size:
            os.utime(target)
            return open(target, "rb")
    except FileNotFoundError:
        return None
    target.unlink()
    return None


def _busy(part: Path) -> BinaryIO | None:
    """The part file if a living process downloads into it; an orphan is removed, which needs the folder's lock."""
    try:
        file = open(part, "rb")  # noqa: SIM115 - the caller waits on it and closes it
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return file
    part.unlink(missing_ok=True)
    file.close()
    return None


def _new_part(part: Path, size: int) -> BinaryIO:
    """A locked file that has all of its space already."""
    file = open(part, "wb")  # noqa: SIM115 - closed when the download has ended
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        part.unlink(missing_ok=True)
        file.close()
        if disk_full(error):
            raise UserError(
                f"disk full: no {size:,} bytes left for {part.parent}; free some space, or lower data.cache.limit_gb"
            ) from error
        raise
    return file
