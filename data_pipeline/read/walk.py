"""Files on disk below the folders and globs that a user names: through symbolic links, without hidden names."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from data_pipeline.errors import UserError
from data_pipeline.read.own_folders import made_by_us
from data_pipeline.read.passed_over import PassedOver, shown

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# What these name is another file in a worker.
_OF_A_PROCESS = ("/dev/fd/", "/dev/stdin", "/proc/self/", "/proc/thread-self/")


class _Above(NamedTuple):
    """A folder on the way to the one that is being read, by device and inode, and the way before it."""

    identity: tuple[int, int]
    before: _Above | None


class Walk:
    """Finds the files of one source.

    Args:
        out: the store that is being built, a folder, which is never read; None if it is in an object store.
        passed: counts what is left out.
    """

    def __init__(self, out: str | None, passed: PassedOver) -> None:
        self._passed = passed
        self._out = None
        # Where it is not there yet, nothing below a source is it.
        with contextlib.suppress(OSError):
            self._out = _identity_of(os.stat(os.path.expanduser(out))) if out else None

    def expand(self, pattern: str) -> list[str]:
        """The files that a path or a glob names; of folders, all that lies below them. In an order of names.

        A name that exists is taken as it is, even if it holds characters of a glob.

        Raises:
            UserError: a file or folder can't be read, or a link leads nowhere.
        """
        expanded = os.path.expanduser(pattern)
        if _exists(expanded):
            matches: list[tuple[str, _Above | None]] = [(expanded, None)]
        else:
            matches = sorted(dict(self._matches(expanded)).items()) if glob.has_magic(expanded) else []
        files: list[str] = []
        for match, above in matches:
            if _is_dir(match):
                files.extend(self._below(match, above))
            elif not expanded.endswith("/"):
                files.append(match)
        return files

    def _below(self, folder: str, above: _Above | None) -> list[str]:
        files: list[str] = []
        waiting = [(folder, above)]
        while waiting:
            path, before = waiting.pop()
            here, entries = self._enter(path, before)
            for entry in entries:
                location = os.path.join(path, entry.name)
                if entry.name.startswith("."):
                    self._passed.add("hidden name", "it starts with a dot", location)
                elif _is_folder(entry):
                    waiting.append((location, here))
                else:
                    files.append(location)
        return sorted(files)

    def _enter(self, path: str, before: _Above | None) -> tuple[_Above | None, list[os.DirEntry[str]]]:
        """A folder's entries; none if it is one of those above it again, or one that this program made."""
        folder = path or os.curdir
        identity = _identity_of(status_of(folder))
        above = before
        while above is not None:
            if above.identity == identity:
                return None, []
            above = above.before
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            raise _unreadable(folder, error) from error
        made = "the store that is being built" if identity == self._out else None
        made = made or made_by_us(
            [entry.name for entry in entries],
            lambda name: os.path.isfile(os.path.join(path, name)),
            lambda name: _content(os.path.join(path, name)),
        )
        if made is not None:
            self._passed.add("folder", f"it is {made}", folder)
            return None, []
        return _Above(identity, before), entries

    def _matches(self, pattern: str) -> Iterator[tuple[str, _Above | None]]:
        """What :func:`glob.glob` finds, but no folder again below itself, and with the folders on the way."""
        parts = pattern.split("/")
        first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        # Leading folders that exist as they are spelled are no patterns: data[1]/*.txt.
        literal = (count for count in range(len(parts) - 1, first, -1) if _exists("/".join(parts[:count])))
        first = next(literal, first)
        base = "/".join(parts[:first]) + "/" if first else ""
        rest = [part for part in parts[first:] if part]
        if base and not _exists(base):
            return
        waiting: list[tuple[str, int, _Above | None]] = [(base, 0, None)]
        while waiting:
            path, index, before = waiting.pop()
            if index == len(rest):
                # With the slash that the pattern ends in, which counts in the order of names.
                yield os.path.join(path, "") if pattern.endswith("/") and _is_dir(path) else path, before
                continue
            part, last = rest[index], index + 1 == len(rest)
            if part == "**" and last and path:
                # Everything below it.
                if _is_dir(path):
                    yield os.path.join(path, ""), before
                continue
            if not glob.has_magic(part):
                joined = os.path.join(path, part)
                if _exists(joined):
                    waiting.append((joined, index + 1, None))
                continue
            if not _is_dir(path or os.curdir):
                continue
            here, entries = self._enter(path, before)
            if part == "**" and not last:
                waiting.append((path, index + 1, before))
            for entry in entries:
                joined = os.path.join(path, entry.name)
                if part == "**" and last:
                    if not entry.name.startswith("."):
                        waiting.append((joined, index + 1, here))
                elif part == "**":
                    if not entry.name.startswith(".") and _is_folder(entry):
                        waiting.append((joined, index, here))
                elif entry.name.startswith(".") and not part.startswith("."):
                    continue
                elif fnmatch.fnmatchcase(entry.name, part) and (last or _is_folder(entry)):
                    # A part of the pattern is one level, so that only ** can come round in a circle.
                    waiting.append((joined, index + 1, here if "**" in rest[:index] else None))


def status_of(path: str) -> os.stat_result:
    """The status of a file or folder, through symbolic links.

    Raises:
        UserError: it can't be had, or the file is a pipe, a socket or a device, which is never opened.
    """
    if os.path.abspath(path).startswith(_OF_A_PROCESS):
        raise UserError(f"{shown(path)} is a file for this process alone: give the name that the file has for all")
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path) and isinstance(error, FileNotFoundError | NotADirectoryError):
            raise UserError(
                f"{shown(path)} is a symbolic link to {shown(os.readlink(path))}, which is not there: restore what it "
                "points to, or remove the link"
            ) from error
        raise _unreadable(path, error) from error
    special = _SPECIAL.get(stat.S_IFMT(status.st_mode))
    if special is not None:
        raise UserError(f"{shown(path)} is {special}, not a file: leave it out, or write what it gives to a file first")
    return status


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(
        f"cannot read {shown(path)}: {error.strerror}; correct it or its permissions, or name only what can be read"
    )


def _exists(path: str) -> bool:
    """Whether there is something of this name, be it a link that leads nowhere."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        # The name itself can be too long for a file, as a glob's may be.
        if glob.has_magic(path) and not isinstance(error, PermissionError):
            return False
        raise _unreadable(path, error) from error
    return True


def _is_dir(path: str) -> bool:
    return stat.S_ISDIR(status_of(path).st_mode)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        raise _unreadable(entry.path, error) from error


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
