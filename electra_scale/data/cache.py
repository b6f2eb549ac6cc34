"""A bounded folder of a store's files on the node's own disk, shared by all processes of the node.

Files are named by their SHA-256, so a file that is there is right, whichever store or run put it there. All state is in
plain files and ``flock``: a lock ends with the process that holds it, however that ends, so ``kill -9`` leaves at most
a ``.part`` file that nobody has locked, and the next process removes it. There is no shared memory.

A file that is evicted while a process has it mapped stays readable for that process until it unmaps it (POSIX). The
folder no longer counts it, and the disk frees its space then. :class:`electra_scale.data.split.Split` bounds what it
keeps mapped.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import disk_full, sha256_of, sync, sync_folder
from data_pipeline.places.place import Missing, Place

_PART = ".part"
_LOCK = ".lock"
_BLOCK = 4096
_ATTEMPTS = 3
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Fetched:
    """What one process fetched from the store: bytes of whole files, and attempts that gave damaged ones."""

    bytes: int = 0
    errors: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, size: int = 0, errors: int = 0) -> None:
        with self._lock:
            self.bytes += size
            self.errors += errors


class Cache:
    """At most ``limit`` bytes of files in ``folder``, those being downloaded included.

    Any number of processes and threads may use it at once. Raises UserError if the folder can't be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.fetched = Fetched()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the cache folder {folder}: {error.strerror}; set data.cache.folder to a writable folder"
            ) from error

    def get(self, place: Place, name: str, sha256: str, size: int) -> Path:
        """Path of the file ``name`` of ``place``, fetched if it is not there; raises what :meth:`open` does.

        Another process may evict it at any time; what :meth:`open` returns stays readable.
        """
        with self.open(place, name, sha256, size) as file:
            return Path(file.name)

    def open(self, place: Place, name: str, sha256: str, size: int) -> BinaryIO:
        """The file ``name`` of ``place``, opened; downloaded and verified first if it is not there.

        Of several processes that need it, one downloads it and the others wait for that.

        Raises:
            UserError: the file is larger than the limit, the disk is full, or the store's file does not have this
                ``sha256`` and ``size``; and what ``place`` raises.
        """
        with self.usable():
            return self._open(place, name, sha256, size)

    def _open(self, place: Place, name: str, sha256: str, size: int) -> BinaryIO:
        target = self.folder / f"{sha256}{PurePosixPath(name).suffix}"
        if _on_disk(size) > self.limit:
            raise UserError(
                f"{name} of {place.url} has {size:,} bytes, but the cache {self.folder} may hold {self.limit:,}: "
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
                # The lock is granted when the process that downloads has finished or died; then look again.
                with awaited:
                    fcntl.flock(awaited, fcntl.LOCK_EX)
            elif part is not None:
                return self._download(place, name, sha256, size, part, target)

    def _download(self, place: Place, name: str, sha256: str, size: int, part: BinaryIO, target: Path) -> BinaryIO:
        path = Path(part.name)
        try:
            self._fetch(place, name, sha256, size, path)
            sync(part.fileno(), target)
            # Under the lock, so that every other process finds either the part file or the finished one, and none
            # evicts the finished one before it is open here.
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
                f"{name} of {place.url} has {entry.size:,} bytes, but the manifest says {size:,}: "
                "restore the file or build the store again"
            )
        found = ""
        for _ in range(_ATTEMPTS):
            place.fetch(name, part)
            found = sha256_of(part)
            if found == sha256:
                self.fetched.add(size=size)
                return
            self.fetched.add(errors=1)
        raise UserError(
            f"{name} of {place.url} has SHA-256 {found}, but the manifest says {sha256} ({_ATTEMPTS} attempts): "
            "run `electra-data verify`, then restore the file or build the store again"
        )

    def _make_room(self, size: int) -> BinaryIO | None:
        """Evict the files used longest ago until ``size`` more bytes fit.

        Returns None when they fit. Where other downloads take the space, it returns the part file of one of them, to be
        waited for. Raises UserError where evicting and waiting can't help.
        """
        running: BinaryIO | None = None
        evictable = []
        total = _on_disk(size)
        for path, taken, used in self._files():
            if path.suffix == _PART:
                busy = _busy(path)
                if busy is None:
                    continue
                if running is None:
                    running = busy
                else:
                    busy.close()
            elif path.parent == self.folder and _SHA256.fullmatch(path.stem):
                evictable.append((used, path, taken))
            total += taken
        for _, path, taken in sorted(evictable):
            if total <= self.limit:
                break
            # In a folder such as /tmp another user's file stays.
            with suppress(PermissionError):
                path.unlink(missing_ok=True)
                total -= taken
        if total <= self.limit:
            if running is not None:
                running.close()
            return None
        if running is None:
            raise UserError(
                f"the cache {self.folder} may hold {self.limit:,} bytes, but {total - _on_disk(size):,} of them are "
                "taken by files that can't be evicted: raise data.cache.limit_gb"
            )
        return running

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
        """Hold the folder's lock: no other process or thread changes the folder meanwhile."""
        with _opened_lock(self.folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Turn what the operating system refuses in the folder, such as another user's files, into a UserError."""
        try:
            yield
        except OSError as error:
            what = f"{error.strerror}: {error.filename}" if error.filename else f"{error.strerror}"
            raise UserError(
                f"cannot use the cache folder {self.folder}{_owner(self.folder)} ({what}): set data.cache.folder to a "
                "folder of your own on the node's disk, or let its owner give you the right to write in it and to its "
                "files"
            ) from error


def _opened_lock(folder: Path) -> BinaryIO:
    """The lock file, open; whoever may write into the folder may lock it."""
    path = folder / _LOCK
    # First without O_CREAT, by which Linux refuses another user's file in a folder such as /tmp.
    with suppress(FileNotFoundError):
        return open(path, "rb+")
    file = open(path, "ab")  # noqa: SIM115 - the caller closes it
    if os.fstat(file.fileno()).st_uid == os.getuid():
        os.fchmod(file.fileno(), folder.stat().st_mode & 0o666)
    return file


def _owner(folder: Path) -> str:
    """Whose folder it is, in words, if it is not this user's."""
    try:
        number = folder.stat().st_uid
        return "" if number == os.getuid() else f" of user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f" of user {number}"
    except OSError:
        return ""


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _part_of(target: Path) -> Path:
    return target.with_suffix(_PART)


def _open_whole(target: Path, size: int) -> BinaryIO | None:
    """The finished file, opened and marked as used; None if there is none.

    A file of another size is damaged: it is removed.
    """
    try:
        if target.stat().st_size == size:
            # Another user's file is as good, even where one may only read it.
            with suppress(PermissionError):
                os.utime(target)
            return open(target, "rb")
    except FileNotFoundError:
        return None
    target.unlink()
    return None


def _busy(part: Path) -> BinaryIO | None:
    """The part file, opened, if a running process downloads into it; else None.

    A part file that no process has locked was left by a killed one: it is removed. The caller holds the folder's lock.
    """
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
    """A new part file, locked, with all of its space reserved on disk. Raises UserError if the disk is full."""
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
                f"disk full: there are no {size:,} bytes left for the cache {part.parent}; "
                "free some space, or lower data.cache.limit_gb"
            ) from error
        raise
    return file
