"""How a node reaches the store and the run folder: what it can read and write, and how fast."""

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
    """What reading a store gave: its fingerprint, and ``bytes`` of shards in ``seconds``, or the error.

    ``lasting``: a second attempt would give the same error.
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
    """Read the manifest and, unless ``short``, shards: different ones on each node, as in training."""
    try:
        manifest = load_manifest(url)
        if short or not manifest.shards:
            return StoreReading(manifest.fingerprint)
        place = open_place(url)
        begin = node * len(manifest.shards) // nodes
        read, began = 0, time.perf_counter()
        for shard in [*manifest.shards[begin:], *manifest.shards[:begin]]:
            _drop_page_cache(place, shard.name)
            for offset in range(0, shard.bytes, _PART):
                read += len(place.read_range(shard.name, offset, min(offset + _PART, shard.bytes)))
                if read >= MOST_BYTES or time.perf_counter() - began > MOST_SECONDS:
                    return StoreReading(manifest.fingerprint, read, time.perf_counter() - began)
        return StoreReading(manifest.fingerprint, read, time.perf_counter() - began)
    except UserError as error:
        return StoreReading(error=str(error), lasting=not isinstance(error, Unavailable))


def _drop_page_cache(place: Place, name: str) -> None:
    # Otherwise a file that was read before would come from memory, faster than any disk or network.
    path = place.local(name)
    if path is not None and path.is_file() and hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class FolderReading:
    """The run folder on a node: whether the first node's mark is seen, the error of writing there, the free space."""

    seen: bool
    error: str | None = None
    space: Space | None = None


def leave_mark(folder: Path, name: str) -> str | None:
    """Write a file into the folder, and make the folder if it is missing; returns the error, if there is one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return None


def read_folder(folder: Path, mark: str | None, own: str) -> FolderReading:
    """Look for the first node's mark, unless that node could not write one, and write a file of this node's own.

    The mark's name must be a new one: network file systems remember for a while which files are missing.
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
