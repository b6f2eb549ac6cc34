"""Where files lie: a folder or an object store, behind one small interface.

A name is a relative path with ``/``; no name leaves its place. Whatever is put appears whole or not at all.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISDIR
from typing import Protocol

from data_pipeline.atomic import replacing, sync_folder, write_bytes
from data_pipeline.errors import UserError

S3_SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class Unavailable(UserError):
    """The place did not answer, or answered that it can't just now: worth trying again later."""


class Missing(UserError):
    """There is no such file, though the place itself answers."""


@dataclass(frozen=True)
class Entry:
    """A file: ``name`` relative to the place, ``size`` in bytes, ``identity`` that changes with its content."""

    name: str
    size: int
    identity: str


class Place(Protocol):
    """A folder or a bucket's prefix. Every method raises UserError in one line, :class:`Unavailable` when a later
    try may succeed, :class:`Missing` when the named file is not there. Bounded retries happen inside."""

    @property
    def url(self) -> str:
        """What the user calls it; never holds a credential."""
        ...

    def local(self, name: str) -> Path | None:
        """The file's path if it can be opened without a copy, else None."""
        ...

    def read(self, name: str) -> bytes:
        """The whole of a small file."""
        ...

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file, fewer at its end."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to ``target``, which the caller made and may preallocate; not atomic, the caller renames."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a file, replacing one that is there."""
        ...

    def put_file(self, name: str, source: Path) -> None:
        """Write a file from a local one, large ones in parts; ``source`` stays."""
        ...

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; False, and nothing written, if there is."""
        ...

    def stat(self, name: str) -> Entry | None:
        """The file's size and identity, None if there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All files, at any depth, whose name starts with ``prefix``, by name."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; no error if there is none."""
        ...


def is_object_store(url: str | Path) -> bool:
    """Whether the text names an object store and not a folder."""
    return str(url).startswith(S3_SCHEME)


def open_place(url: str | Path) -> Place:
    """The folder or ``s3://bucket/prefix`` that ``url`` names; nothing is read or made yet.

    Raises:
        UserError: no bucket in the URL, a scheme that is not known, or boto3 is not installed.
    """
    text = str(url)
    if is_object_store(text):
        from data_pipeline.object_store import S3Place

        return S3Place(text)
    scheme, found, _ = text.partition("://")
    if found:
        # The rest is not repeated: it may hold a password or a signature.
        raise UserError(f"no store can be reached by {scheme}://: give a folder or s3://bucket/prefix")
    return FolderPlace(Path(text).expanduser())


def split_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes around it, may be empty) of ``s3://bucket/prefix``.

    Raises:
        UserError: there is no bucket, it can't be a bucket's name, or the prefix is not a plain path.
    """
    bucket, _, prefix = url.removeprefix(S3_SCHEME).partition("/")
    if "@" in bucket:
        raise UserError("an s3:// URL must not hold credentials: give them by AWS_PROFILE or AWS_ACCESS_KEY_ID")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(f"{url}: {bucket!r} is not a bucket's name: give s3://bucket/prefix")
    prefix = prefix.rstrip("/")
    try:
        return bucket, checked_name(prefix) if prefix else ""
    except ValueError:
        raise UserError(f"{url}: {prefix!r} is not a plain path: give s3://bucket/prefix") from None


def is_file_name(name: str) -> bool:
    """Whether a name is a plain relative path, which stays in its place and can be written in UTF-8."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or str(path) != name:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in name)


def checked_name(name: str) -> str:
    """The name itself; raises ValueError for one that :func:`is_file_name` does not take."""
    if not is_file_name(name):
        raise ValueError(f"{name!r} is not a relative file name")
    return name


class FolderPlace:
    """A local folder. Temporary files of writes under way, ``.NAME.*.tmp``, are not listed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"FolderPlace({self.url!r})"

    def local(self, name: str) -> Path:
        return self.path / checked_name(name)

    def read(self, name: str) -> bytes:
        path = self.local(name)
        with _told("read", path):
            return path.read_bytes()

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        path = self.local(name)
        with _told("read", path), open(path, "rb") as file:
            file.seek(begin)
            return file.read(max(0, end - begin))

    def fetch(self, name: str, target: Path) -> None:
        path = self.local(name)
        with _told("read", path):
            source = open(path, "rb")  # noqa: SIM115 - closed below, where errors are about the target
        with source, _told("write", target), open(target, "rb+") as sink:
            # Small writes make small page-cache folios, and a reader of the mapped file holds whole ones.
            shutil.copyfileobj(source, sink, 1 << 16)
            sink.truncate()

    def put(self, name: str, data: bytes) -> None:
        path = self._made(name)
        with _told("write", path):
            write_bytes(path, data)

    def put_file(self, name: str, source: Path) -> None:
        path = self._made(name)
        with _told("write", path), replacing(path) as temporary:
            shutil.copyfile(source, temporary)

    def put_new(self, name: str, data: bytes) -> bool:
        path = self._made(name)
        # Several threads may race for one name.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        with _told("write", path):
            try:
                write_bytes(temporary, data)
                # A link, unlike a rename, fails when the name is taken.
                os.link(temporary, path)
                sync_folder(path.parent)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def stat(self, name: str) -> Entry | None:
        path = self.local(name)
        with _told("read", path):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if S_ISDIR(status.st_mode):
            return None
        # Clocks are coarse: two writes may have one time, but a new file beside the old one has another number.
        return Entry(name, status.st_size, f"{status.st_mtime_ns}-{status.st_ino}-{status.st_size}")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = prefix.rpartition("/")[0]
        found = []
        for parent, _, names in os.walk(self.local(folder) if folder else self.path, onerror=_tell):
            for name in names:
                relative = os.path.relpath(os.path.join(parent, name), self.path).replace(os.sep, "/")
                if relative.startswith(prefix) and not (name.startswith(".") and name.endswith(".tmp")):
                    found.append(relative)
        for relative in sorted(filter(is_file_name, found)):
            entry = self.stat(relative)
            if entry is not None:
                yield entry

    def delete(self, name: str) -> None:
        path = self.local(name)
        with _told("delete", path):
            if self.stat(name) is not None:
                path.unlink(missing_ok=True)

    def _made(self, name: str) -> Path:
        """The file's path, in a folder that is there."""
        path = self.local(name)
        with _told("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def _told(doing: str, path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into a line for the user."""
    try:
        yield
    except OSError as error:
        if doing == "read" and isinstance(error, FileNotFoundError | NotADirectoryError):
            raise Missing(f"{path} is missing: restore it, or make what it is part of again") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"disk full while writing {path}: free some space and run again") from error
        raise UserError(f"cannot {doing} {path}: {error.strerror}; check the path and its permissions") from error


def _tell(error: OSError) -> None:
    # A folder that is not there holds no files; one that can't be read might.
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error
