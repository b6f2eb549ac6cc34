"""A local folder as a place."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import cannot_write, replacing, sync, sync_folder, write_bytes
from data_pipeline.places.names import checked_name, is_file_name
from data_pipeline.places.place import Entry, Missing

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of file systems without hard links."""


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
        with _reported("read", path):
            return path.read_bytes()

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        path = self.local(name)
        with _reported("read", path), open(path, "rb") as file:
            file.seek(begin)
            return file.read(max(0, end - begin))

    def fetch(self, name: str, target: Path, most: int | None = None) -> None:
        path = self.local(name)
        with _reported("read", path):
            source = open(path, "rb")  # noqa: SIM115 - closed below, where errors are about the target
        with source, _reported("write", target), open(target, "rb+") as sink:
            # Small writes make small page-cache folios, and a reader of the mapped file holds whole ones.
            left = source.seek(0, os.SEEK_END) if most is None else most
            source.seek(0)
            while data := source.read(min(left, 1 << 16)):
                left -= sink.write(data)
            sink.truncate()

    def put(self, name: str, data: bytes) -> None:
        path = self._made(name)
        with _reported("write", path):
            write_bytes(path, data)

    def put_file(self, name: str, source: Path) -> None:
        path = self._made(name)
        with _reported("write", path), replacing(path) as temporary:
            shutil.copyfile(source, temporary)

    def put_new(self, name: str, data: bytes) -> bool:
        path = self._made(name)
        # Several threads may race for one name.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        with _reported("write", path):
            try:
                write_bytes(temporary, data)
                try:
                    # A link, unlike a rename, fails when the name is taken.
                    _link(temporary, path)
                except FileExistsError:
                    # A network file system may have lost the answer to a first request, which has done its work.
                    if not os.path.samefile(temporary, path):
                        raise
                sync_folder(path.parent)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def stat(self, name: str) -> Entry | None:
        path = self.local(name)
        with _reported("read", path):
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
        for parent, _, names in os.walk(self.local(folder) if folder else self.path, onerror=_report):
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
        with _reported("delete", path):
            if self.stat(name) is not None:
                path.unlink(missing_ok=True)

    def _made(self, name: str) -> Path:
        """The file's path, in a folder that is there."""
        path = self.local(name)
        with _reported("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; raises FileExistsError if that is taken."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # The file system has no links. A new file fails in the same way, but is empty for a moment.
        with open(target, "xb") as file:
            file.write(source.read_bytes())
            sync(file.fileno(), target)


@contextmanager
def _reported(doing: str, path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a line for the user."""
    try:
        yield
    except OSError as error:
        if doing == "read" and isinstance(error, FileNotFoundError | NotADirectoryError):
            raise Missing(f"{path} is missing: restore it, or make what it is part of again") from error
        if doing == "write":
            raise cannot_write(path, error) from error
        raise UserError(f"cannot {doing} {path}: {error.strerror}; check the path and its permissions") from error


def _report(error: OSError) -> None:
    # A folder that is not there holds no files; one that can't be read might.
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error
