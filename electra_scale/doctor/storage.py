"""How a node reaches the store and the run folder: what it can read and write, and how fast."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Place, Unavailable
from data_pipeline.store.manifest import ShardEntry, load_manifest
from electra_scale.doctor.facts import Space, space_at

MOST_BYTES = 64 * 10**6
MOST_SECONDS = 5.0
_PART = 8 << 20
_RANGE_BYTES = 16 << 20
"""Training fetches a shard from an object store by ranges of this size."""
_MOST_OF_A_SHARD = 2 * _RANGE_BYTES
"""Two ranges, and little enough to end soon on a slow network."""
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
        place = open_place(url)
        manifest = load_manifest(place)
        if short or not manifest.shards:
            return StoreReading(manifest.fingerprint)
        begin = node * len(manifest.shards) // nodes
        shards = [*manifest.shards[begin:], *manifest.shards[:begin]]
        # Those of several ranges first: a server can fail on them alone.
        shards.sort(key=lambda shard: shard.bytes <= _RANGE_BYTES)
        read, seconds = 0, 0.0
        with tempfile.NamedTemporaryFile(prefix="electra-doctor-") as copy:
            for shard in shards:
                _drop_page_cache(place, shard.name)
                began = time.perf_counter()
                read += _read_shard(place, shard, min(_MOST_OF_A_SHARD, MOST_BYTES - read), Path(copy.name))
                seconds += time.perf_counter() - began
                if read >= MOST_BYTES or seconds > MOST_SECONDS:
                    break
        return StoreReading(manifest.fingerprint, read, seconds)
    except UserError as error:
        return StoreReading(error=str(error), lasting=not isinstance(error, Unavailable))


def _read_shard(place: Place, shard: ShardEntry, most: int, copy: Path) -> int:
    """Read the first ``most`` bytes of a shard as training does, which copies it from an object store; the bytes read.

    Raises:
        UserError: it cannot be read, or has fewer bytes than the manifest lists.
    """
    wanted = min(most, shard.bytes)
    if place.local(shard.name) is None:
        place.fetch(shard.name, copy, wanted)
        read = copy.stat().st_size
    else:
        parts = ((begin, min(begin + _PART, wanted)) for begin in range(0, wanted, _PART))
        read = sum(len(place.read_range(shard.name, begin, end)) for begin, end in parts)
    if read != wanted:
        raise UserError(
            f"{shard.name} of {place.url} gives {read:,} bytes, but the manifest lists {shard.bytes:,}: restore the "
            "file or build the store again"
        )
    return read


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
