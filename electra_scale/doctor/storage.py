"""Store and run folder, as a node reaches them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Place, Unavailable
from data_pipeline.store.manifest import load_manifest
from electra_scale.doctor.facts import Space, space_at

MOST_BYTES = 64 * 10**6
MOST_SECONDS = 5.0
_PART = 8 * 10**6
_APPEARS = 5.0
"""Seconds that a network file system may take to show a file that another node has just written."""


@dataclass(frozen=True)
class StoreReading:
    """What reading a store gave: its fingerprint, and bytes of shards in so many seconds, or the error.

    ``lasting``: asking again would give the same error.
    """

    fingerprint: str = ""
    bytes: int = 0
    seconds: float = 0.0
    error: str | None = None
    lasting: bool = False

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds if self.seconds else 0.0


def read_store(url: str, node: int, nodes: int, short: bool) -> StoreReading:
    """Read the manifest and, unless ``short``, shards: other ones on each node, as in training."""
    try:
        place = open_place(url)
        manifest = load_manifest(place)
        if short or not manifest.shards:
            return StoreReading(manifest.fingerprint)
        begin = node * len(manifest.shards) // nodes
        read, began = 0, time.perf_counter()
        for shard in [*manifest.shards[begin:], *manifest.shards[:begin]]:
            _forget(place, shard.name)
            for offset in range(0, shard.bytes, _PART):
                read += len(place.read_range(shard.name, offset, min(offset + _PART, shard.bytes)))
                if read >= MOST_BYTES or time.perf_counter() - began > MOST_SECONDS:
                    return StoreReading(manifest.fingerprint, read, time.perf_counter() - began)
        return StoreReading(manifest.fingerprint, read, time.perf_counter() - began)
    except UserError as error:
        return StoreReading(error=str(error), lasting=not isinstance(error, Unavailable))


def _forget(place: Place, name: str) -> None:
    # Else a file that was read before comes from memory, at a rate that no disk and no network has.
    path = place.local(name)
    if path is not None and path.is_file() and hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class FolderReading:
    """The run folder, as a node sees it: whether the first node's mark is there, and the error of writing to it."""

    seen: bool
    error: str | None = None
    space: Space | None = None


def leave_mark(folder: Path, name: str) -> str | None:
    """Write a file into the folder, which is made if need be; the error, if there is one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return None


def read_folder(folder: Path, mark: str | None, own: str) -> FolderReading:
    """Look for the first node's mark, unless it could not write one, and write a file of this node's own.

    A name that nobody has asked for before is not in a network file system's memory of missing files.
    """
    deadline = time.monotonic() + _APPEARS
    while mark is not None and not os.path.isfile(folder / mark):
        if time.monotonic() > deadline:
            return FolderReading(False)
        time.sleep(0.1)
    error = leave_mark(folder, own)
    if error is not None:
        return FolderReading(True, error)
    (folder / own).unlink()
    return FolderReading(True, None, space_at(folder))
