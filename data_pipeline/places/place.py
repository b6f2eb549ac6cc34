"""The interface to where files lie, a folder or an object store.

A name is a relative path with ``/``; no name leaves its place. Whatever is put appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_pipeline.errors import UserError


class Unavailable(UserError):
    """The place did not answer, or is too busy now: a later try may succeed."""


class Missing(UserError):
    """There is no such file; the place itself answers."""


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
        """The name by which the user knows it; never holds a credential."""
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

    def fetch(self, name: str, target: Path, most: int | None = None) -> None:
        """Copy a file, or its first ``most`` bytes, to ``target``, which the caller made and may preallocate; not
        atomic, the caller renames."""
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
