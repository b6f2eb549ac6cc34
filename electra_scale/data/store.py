"""Reading a store: the one place where training touches shards."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.open import open_place
from data_pipeline.places.scratch import scratch_folder
from data_pipeline.store.manifest import Manifest, ShardEntry, load_manifest
from data_pipeline.store.shard import Shard, read_shard
from data_pipeline.store.token_counts import load_token_counts
from data_pipeline.tokenize.tokenizer import TOKENIZER_FOLDER, load_with_roles
from electra_scale.data.cache import Cache
from electra_scale.data.rows import SpecialTokens
from electra_scale.recipe.data import CacheConfig

_TOUCH_SECONDS = 10.0


class Store:
    """A finished store, opened for reading: a folder, or ``s3://bucket/prefix`` through a cache on the node's disk.

    Raises:
        UserError: there is no finished store, its manifest or tokenizer is damaged, or the place does not answer.
    """

    def __init__(self, url: str | Path, cache: CacheConfig | None = None) -> None:
        cache = cache or CacheConfig()
        self.place = open_place(url)
        self.url = self.place.url
        folder = self.place.path if isinstance(self.place, FolderPlace) else None
        self.manifest: Manifest = load_manifest(self.place)
        self.cache: Cache | None = None
        if folder is None or cache.folder is not None:
            self.cache = Cache(cache_folder(cache), int(cache.limit_gb * 1e9))
        self.tokenizer_dir = folder / TOKENIZER_FOLDER if folder else self._remote_tokenizer()

    @property
    def mixture(self) -> dict[str, float]:
        """Weight of each source label that the store was built with; empty: every row once an epoch."""
        weights = self.manifest.settings.get("mixture") or {}
        if not isinstance(weights, dict) or not all(
            isinstance(weight, int | float) and 0 < weight < math.inf for weight in weights.values()
        ):
            raise UserError(f"settings.mixture of {self.url} is not weights above 0: set data.mixture in the recipe")
        return {str(label): float(weight) for label, weight in weights.items()}

    def token_counts(self) -> NDArray[np.int64]:
        """How often each token (V,) occurs in the train split. Raises UserError if the file is missing or damaged."""
        self._verified(self.manifest.token_counts.name, self.manifest.token_counts.sha256)
        return load_token_counts(self.place, self.manifest)

    def documents(self, split: str, most_tokens: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """The first documents of a split, up to about ``most_tokens``: flat ids (N,) and offsets (documents + 1).

        Ids are of the type that the store keeps them in.
        """
        ids: list[NDArray[np.unsignedinteger]] = []
        lengths: list[NDArray[np.int64]] = []
        left = most_tokens
        for entry in self.manifest.split(split):
            if left <= 0:
                break
            shard = self.open(entry).shard
            documents = max(1, int(np.searchsorted(shard.offsets, left, side="right")) - 1)
            end = int(shard.offsets[documents]) if documents < len(shard.offsets) else int(shard.offsets[-1])
            ids.append(shard.ids[:end])
            lengths.append(np.diff(shard.offsets[: documents + 1]))
            if documents < len(shard.offsets) - 1:
                break
            left -= end
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1)
        return np.concatenate(ids) if ids else np.zeros(0, np.uint16), offsets.astype(np.int64)

    def fetch(self, entry: ShardEntry) -> None:
        """Bring a shard into the cache unless it is there; a folder that is read in place needs nothing.

        Raises what :meth:`electra_scale.data.cache.Cache.open` does.
        """
        if self.cache is not None:
            self.cache.get(self.place, entry.name, entry.sha256, entry.bytes)

    def open(self, entry: ShardEntry) -> MappedShard:
        """Map a shard into memory, fetched into the cache first where there is one.

        Raises:
            UserError: it is missing, damaged, belongs to another store, or does not hold what the manifest says.
        """
        where = f"{self.url}/{entry.name}"
        with self._file(entry) as file:
            path = Path(file.name)
            try:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise UserError(
                    f"shard {where} is empty: run `electra-data verify`, then restore it or build the store again"
                ) from None
        shard = read_shard(pa.py_buffer(mapped), where, self.manifest.tokenizer.fingerprint)
        if len(shard.doc) != entry.rows or int(shard.offsets[-1]) != entry.tokens:
            raise UserError(
                f"shard {entry.name} of {self.url} holds {len(shard.doc)} documents and "
                f"{int(shard.offsets[-1])} tokens, but the manifest says {entry.rows} and {entry.tokens}: "
                "run `electra-data verify`, then restore it or build the store again"
            )
        return MappedShard(shard, mapped, None if self.cache is None else path)

    def _file(self, entry: ShardEntry) -> BinaryIO:
        if self.cache is not None:
            return self.cache.open(self.place, entry.name, entry.sha256, entry.bytes)
        path = self.place.local(entry.name)
        assert path is not None
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise UserError(f"shard {path} is missing: restore it or build the store again") from None
        except OSError as error:
            raise UserError(f"cannot open shard {path}: {error.strerror}; check the file's permissions") from error

    def _remote_tokenizer(self) -> Path:
        """The folder of the tokenizer's files in the cache, fetched if it is not there; it is whole or not there."""
        assert self.cache is not None
        folder = self.cache.folder / f"tokenizer-{self.manifest.tokenizer.fingerprint}"
        with self.cache.usable():
            if folder.is_dir():
                return folder / TOKENIZER_FOLDER
            contents = {name: self._verified(name, sha) for name, sha in self.manifest.tokenizer.files.items()}
            with self.cache.locked():
                if not folder.is_dir():
                    partial = folder.with_name(f".{folder.name}.partial")
                    shutil.rmtree(partial, ignore_errors=True)
                    (partial / TOKENIZER_FOLDER).mkdir(parents=True)
                    for name, content in contents.items():
                        write_bytes(partial / name, content)
                    partial.rename(folder)
        return folder / TOKENIZER_FOLDER

    def _verified(self, name: str, sha256: str) -> bytes:
        """The content of a small file. Raises UserError if its checksum is not the manifest's."""
        data = self.place.read(name)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise UserError(
                f"{name} of {self.url} has SHA-256 {found}, but the manifest says {sha256}: "
                "restore it or build the store again"
            )
        return data


@dataclass
class MappedShard:
    """An open shard, its memory map, and its file in the cache if it has one there.

    ``touched`` is when the file was last marked as used, in seconds of the monotonic clock.
    """

    shard: Shard
    map: mmap.mmap
    cached: Path | None
    touched: float = 0.0

    def release_memory(self) -> None:
        """Give the pages that were read back to the kernel, which keeps them in its page cache while it can."""
        self.map.madvise(mmap.MADV_DONTNEED)

    def keep_in_cache(self) -> None:
        """Mark the file in the cache as used, so that a shard in use is not evicted as the one used longest ago."""
        if self.cached is None or time.monotonic() - self.touched < _TOUCH_SECONDS:
            return
        self.touched = time.monotonic()
        try:
            os.utime(self.cached)
        except FileNotFoundError:
            self.cached = None
        except PermissionError:
            # Another user has fetched it.
            return


def cache_folder(config: CacheConfig) -> Path:
    """The folder of ``data.cache``; by default one for each user in the system's temporary folder.

    Raises:
        UserError: the default folder belongs to another user.
    """
    if config.folder is not None:
        return Path(config.folder).expanduser()
    folder = Path(scratch_folder()) / f"electra-scale-cache-{os.getuid()}"
    if folder.exists() and folder.stat().st_uid != os.getuid():
        raise UserError(
            f"the cache folder {folder} does not belong to user {os.getuid()}, who runs this: set data.cache.folder to "
            "another one"
        )
    return folder


def special_tokens(tokenizer_dir: Path) -> SpecialTokens:
    """Ids of the special tokens; raises UserError if the tokenizer lacks one."""
    tokenizer, roles = load_with_roles(tokenizer_dir.parent)
    return SpecialTokens.of(tokenizer, roles)
