"""Input files in an object store: found by key, prefix or glob, and read by ranges as if they were local."""

from __future__ import annotations

import fnmatch
import functools
import glob
import io
import re
from collections.abc import Sequence
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.places.names import S3_SCHEME, split_s3_url
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Entry, Place

# One request brings this many bytes: enough to hide the time that a request takes to answer.
BLOCK_BYTES = 8 << 20
_TAIL_BYTES = 64 << 10


@functools.lru_cache(maxsize=16)
def _place(bucket: str) -> Place:
    return open_place(f"{S3_SCHEME}{bucket}")


def _bucket_and_key(location: str) -> tuple[str, str]:
    bucket, _ = split_s3_url(location)
    return bucket, location.removeprefix(f"{S3_SCHEME}{bucket}").removeprefix("/")


def find_remote(pattern: str) -> list[tuple[str, Entry]]:
    """Location (``s3://bucket/key``) and entry of all files that a key, a prefix or a glob names, by key.

    As with folders, what lies below a prefix is found without hidden names; ``**`` stands for any folders.

    Raises:
        UserError: the store can't be reached or refuses.
    """
    bucket, key = _bucket_and_key(pattern)
    place = _place(bucket)
    entry = place.stat(key) if key and not key.endswith("/") else None
    if entry is not None:
        return [(pattern, entry)]
    if glob.has_magic(key):
        before = re.split(r"[*?\[]", key, maxsplit=1)[0]
        parts = key.split("/")
        found = [entry for entry in place.list(before) if _matches(entry.name.split("/"), parts)]
    else:
        folder = key if not key or key.endswith("/") else key + "/"
        below = (entry for entry in place.list(folder) if not entry.name.endswith("/"))
        found = [entry for entry in below if not _hidden(entry.name.removeprefix(folder).split("/"))]
    return [(f"{S3_SCHEME}{bucket}/{entry.name}", entry) for entry in found]


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a key matches a glob, part by part, as the module glob has it for files."""
    if not patterns:
        return not parts
    head, rest = patterns[0], patterns[1:]
    if head == "**":
        if not rest:
            return bool(parts) and not _hidden(parts) and parts[-1] != ""
        return any(not _hidden(parts[:skip]) and _matches(parts[skip:], rest) for skip in range(len(parts)))
    if not parts or (parts[0].startswith(".") and not head.startswith(".")):
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
        bucket, self._key = _bucket_and_key(location)
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
