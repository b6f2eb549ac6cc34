"""Input files in an object store: found by key, prefix or glob, and read by ranges as if they were local."""

from __future__ import annotations

import fnmatch
import functools
import glob
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.places.names import S3_SCHEME, is_object_store, split_s3_key
from data_pipeline.places.open import open_bucket
from data_pipeline.places.place import Entry, Place
from data_pipeline.read.own_folders import SIGNS, made_by_us
from data_pipeline.read.passed_over import PassedOver
from data_pipeline.store.manifest import WORK_FOLDER

# One request brings this many bytes: enough to hide the time that a request takes to answer.
BLOCK_BYTES = 8 << 20
_TAIL_BYTES = 64 << 10


@functools.lru_cache(maxsize=16)
def _place(bucket: str) -> Place:
    return open_bucket(bucket)


def find_remote(pattern: str, out: str = "", passed: PassedOver | None = None) -> list[tuple[str, Entry]]:
    """Location (``s3://bucket/key``) and entry of all files that a key, a prefix or a glob names, by key.

    Every key is a file, whatever its characters, but for hidden names (as in folders), empty keys that end in a slash,
    which stand for folders, and what this program made. ``**`` stands for any folders.

    Args:
        out: the store that is being built, which is never read.
        passed: counts what is left out.

    Raises:
        UserError: the store can't be reached or refuses.
    """
    passed = passed or PassedOver()
    bucket, key = split_s3_key(pattern)
    place = _place(bucket)
    folder = key if not key or key.endswith("/") else f"{key}/"
    entry = place.stat(key) if key != folder else None
    found = list(place.list(folder))
    if entry is not None and entry.size and found:
        passed.add("prefix", "an object has its name; end it with / to read what lies below it", f"{pattern}/")
    if entry is not None and not entry.size and found:
        passed.add("folder marker", "an empty key beside a prefix of its name", pattern)
    elif entry is not None:
        return [(pattern, entry)]
    parts: list[str] | None = None
    literal = ""
    if not found and glob.has_magic(key):
        literal = _literal_folder(place, key)
        rest = key[len(literal) :]
        found = list(place.list(literal + re.split(r"[*?\[]", rest, maxsplit=1)[0]))
        parts = rest.split("/")
    chosen = []
    for entry in _without_own(place, found, out, passed):
        location = f"{S3_SCHEME}{bucket}/{entry.name}"
        if parts is not None and not _matches(entry.name[len(literal) :].split("/"), parts):
            continue
        if parts is None and _hidden(entry.name.removeprefix(folder).split("/")):
            passed.add("hidden name", "a part of it starts with a dot", location)
        elif entry.name.endswith("/") and not entry.size:
            passed.add("folder marker", "an empty key that ends in a slash", location)
        else:
            chosen.append((location, entry))
    return chosen


def _literal_folder(place: Place, key: str) -> str:
    """The longest leading folder of a glob that exists as it is spelled, such as ``data[1]/``; empty for none."""
    parts = key.split("/")
    folders = ("/".join(parts[:count]) + "/" for count in range(len(parts) - 1, 0, -1))
    doubtful = filter(glob.has_magic, folders)
    return next((folder for folder in doubtful if next(iter(place.list(folder)), None) is not None), "")


def _without_own(place: Place, entries: Sequence[Entry], out: str, passed: PassedOver) -> Iterator[Entry]:
    """The entries that do not lie in a folder that this program made, nor in the store that is being built."""
    signs: dict[str, set[str]] = {}
    for entry in entries:
        parts = entry.name.split("/")
        for depth, part in enumerate(parts):
            if part in SIGNS or part == WORK_FOLDER:
                signs.setdefault("/".join(parts[:depth]), set()).add(part)
    own = {}
    for folder, names in signs.items():
        begin = f"{folder}/" if folder else ""
        made = made_by_us(
            names,
            lambda name, begin=begin: place.stat(f"{begin}{name}") is not None,  # type: ignore[misc]
            lambda name, begin=begin: place.read(f"{begin}{name}"),  # type: ignore[misc]
        )
        if made is not None:
            own[folder] = made
    if is_object_store(out):
        bucket, key = split_s3_key(out)
        if place.url.rstrip("/") == f"{S3_SCHEME}{bucket}":
            own[key.rstrip("/")] = "the store that is being built"
    for entry in entries:
        parts = entry.name.split("/")
        inside = next((folder for depth in range(len(parts)) if (folder := "/".join(parts[:depth])) in own), None)
        if inside is None:
            yield entry
        else:
            passed.add("prefix", f"it is {own[inside]}", f"{place.url.rstrip('/')}/{inside}/")


def _is_hidden(part: str) -> bool:
    # In a key, . and .. are names like any others.
    return part.startswith(".") and part not in (".", "..")


def _hidden(parts: Sequence[str]) -> bool:
    return any(_is_hidden(part) for part in parts)


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a key matches a glob, part by part, as the module glob has it for files."""
    if not patterns:
        return not parts
    head, rest = patterns[0], patterns[1:]
    if head == "**":
        if not rest:
            return bool(parts) and not _hidden(parts)
        return any(not _hidden(parts[:skip]) and _matches(parts[skip:], rest) for skip in range(len(parts)))
    if not parts or (_is_hidden(parts[0]) and not head.startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], head) and _matches(parts[1:], rest)


class RemoteFile(io.RawIOBase):
    """A file in an object store, read-only and seekable; one ranged request brings a block of it.

    Args:
        location: ``s3://bucket/key``.
        end: offset behind which little will be read: blocks stop there, and are small behind it.
        block: bytes per request, and the most that is held.

    Raises:
        UserError: there is no such file, it shrinks while it is being read, or the store can't be reached.
    """

    def __init__(self, location: str, end: int | None = None, block: int = BLOCK_BYTES) -> None:
        super().__init__()
        bucket, self._key = split_s3_key(location)
        self._location = location
        self._place = _place(bucket)
        entry = self._place.stat(self._key)
        if entry is None:
            raise UserError(f"{location} is missing: restore it or leave it out")
        self._size = entry.size
        self._end = self._size if end is None else min(end, self._size)
        self._block = block
        self._position = 0
        self._held = b""
        self._held_from = 0

    def head(self, size: int) -> bytes:
        """The first ``size`` bytes, by a request for these alone."""
        return self._place.read_range(self._key, 0, min(size, self._size))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        if not self._held_from <= self._position < self._held_from + len(self._held):
            self._load(wanted)
        begin = self._position - self._held_from
        found = self._held[begin : begin + wanted]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def _load(self, wanted: int) -> None:
        begin = self._position
        stop = min(begin + self._block, self._end) if begin < self._end else min(begin + _TAIL_BYTES, self._size)
        stop = max(stop, begin + wanted)
        self._held = b""  # let go before the next block comes
        self._held = self._place.read_range(self._key, begin, stop)
        self._held_from = begin
        if len(self._held) != stop - begin:
            raise UserError(f"{self._location} became shorter while it was being read: run again when it is at rest")
