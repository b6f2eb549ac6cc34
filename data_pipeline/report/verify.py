"""``electra-data verify``: every checksum and every count of a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sha256_of
from data_pipeline.places.open import local_copy, open_place
from data_pipeline.places.place import Missing, Place, Unavailable
from data_pipeline.store.manifest import Manifest, ShardEntry, load_manifest
from data_pipeline.store.shard import open_shard
from data_pipeline.store.token_counts import load_token_counts
from data_pipeline.tokenize.description import describe
from data_pipeline.tokenize.roles import NOTHING
from data_pipeline.tokenize.tokenizer import load_tokenizer, vocabulary_size

# Each holds one shard, as a temporary file if the store is remote.
_THREADS = min(4, os.cpu_count() or 1)


@dataclass
class _Finding:
    """What reading one shard gave: faults, and how often each token occurs (None where the shard can't be read)."""

    problems: list[str] = field(default_factory=list)
    counts: npt.NDArray[np.int64] | None = None


def verify_store(store: str | Path) -> list[str]:
    """All faults of a store, a folder or ``s3://bucket/prefix``: one line each that begins with the file's name;
    empty when it is sound. Shards of an object store are fetched one by one, and nothing of them is kept.

    Raises:
        UserError: the manifest to compare with is missing or damaged, or the object store does not answer.
    """
    place = open_place(store)
    manifest = load_manifest(place)
    problems = [line for entry in manifest.shards for line in _label_problems(entry, manifest)]
    for name, checksum in [
        *manifest.tokenizer.files.items(),
        (manifest.token_counts.name, manifest.token_counts.sha256),
    ]:
        problems.extend(_file_problems(place, name, checksum))
    totals = {split: np.zeros(manifest.tokenizer.vocab_size, np.int64) for split in ("train", "heldout")}
    for entry, finding in zip(manifest.shards, _findings(place, manifest), strict=True):
        problems.extend(finding.problems)
        if finding.counts is not None:
            totals[entry.split] += finding.counts
    if not problems:
        problems.extend(_content_problems(place, manifest, totals))
    return problems


def _findings(place: Place, manifest: Manifest) -> Iterator[_Finding]:
    threads = ThreadPoolExecutor(_THREADS)
    try:
        yield from threads.map(lambda entry: _shard_finding(place, entry, manifest), manifest.shards)
    finally:
        threads.shutdown(cancel_futures=True)


def _label_problems(entry: ShardEntry, manifest: Manifest) -> Iterator[str]:
    sources = manifest.settings.get("sources")
    if not isinstance(sources, list):
        return
    labels = [source.get("label") for source in sources if isinstance(source, dict)]
    if entry.source not in labels:
        yield f"{entry.name}: its source {entry.source!r} is not among those of the build's settings"


def _file_problems(place: Place, name: str, checksum: str) -> list[str]:
    try:
        with local_copy(place, name) as path:
            return _checksum_problems(path, name, checksum)
    except Missing:
        return [f"{name}: missing"]


def _checksum_problems(path: Path, name: str, checksum: str) -> list[str]:
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        return [f"{name}: missing"]
    except OSError as error:
        return [f"{name}: cannot be read ({error.strerror})"]
    if found != checksum:
        return [f"{name}: wrong checksum, {found[:12]} instead of {checksum[:12]}"]
    return []


def _shard_finding(place: Place, entry: ShardEntry, manifest: Manifest) -> _Finding:
    try:
        with local_copy(place, entry.name) as path:
            wrong = _checksum_problems(path, entry.name, entry.sha256)
            return _Finding(wrong) if wrong else _content_finding(path, f"{place.url}/{entry.name}", entry, manifest)
    except Missing:
        return _Finding([f"{entry.name}: missing"])


def _content_finding(path: Path, where: str, entry: ShardEntry, manifest: Manifest) -> _Finding:
    problems = []
    size = path.stat().st_size
    if size != entry.bytes:
        problems.append(f"{entry.name}: {size} bytes, the manifest lists {entry.bytes}")
    try:
        shard = open_shard(path, manifest.tokenizer.fingerprint, where)
    except UserError as error:
        return _Finding([*problems, f"{entry.name}: {error}"])
    if len(shard.doc) != entry.rows or len(shard.ids) != entry.tokens:
        problems.append(
            f"{entry.name}: {len(shard.doc)} rows and {len(shard.ids)} tokens, "
            f"the manifest lists {entry.rows} and {entry.tokens}"
        )
    vocab_size = manifest.tokenizer.vocab_size
    if len(shard.ids) and int(shard.ids.max()) >= vocab_size:
        problems.append(f"{entry.name}: token id {int(shard.ids.max())} is outside the vocabulary of {vocab_size}")
        return _Finding(problems)
    return _Finding(problems, np.bincount(shard.ids, minlength=vocab_size))


def _content_problems(place: Place, manifest: Manifest, totals: dict[str, npt.NDArray[np.int64]]) -> Iterator[str]:
    stated: dict[str, int] = {}
    for suffix, split in (("", "train"), ("_heldout", "heldout")):
        shards = manifest.split(split)
        stated[f"documents{suffix}"] = sum(shard.rows for shard in shards)
        stated[f"tokens{suffix}"] = sum(shard.tokens for shard in shards)
    try:
        tokenizer = load_tokenizer(place.url)
    except Unavailable:
        raise
    except UserError as error:
        yield f"tokenizer/tokenizer.json: {error}"
        return
    if describe(tokenizer).fingerprint != manifest.tokenizer.fingerprint:
        yield "tokenizer/tokenizer.json: its fingerprint is not that of the manifest"
    size = vocabulary_size(tokenizer)
    if size != manifest.tokenizer.vocab_size:
        yield f"tokenizer/tokenizer.json: {size} entries, not {manifest.tokenizer.vocab_size}"
        return
    unknown = describe(tokenizer).unknown
    stated["unknown_tokens"] = sum(int(total[unknown]) for total in totals.values()) if unknown != NOTHING else 0
    for name, found in stated.items():
        if manifest.counts.get(name) != found:
            yield f"manifest.json: counts.{name} is {manifest.counts.get(name)}, the shards hold {found}"
    try:
        counts = load_token_counts(place, manifest)
    except Unavailable:
        raise
    except UserError as error:
        yield f"{manifest.token_counts.name}: {error}"
        return
    if not np.array_equal(counts, totals["train"]):
        yield f"{manifest.token_counts.name}: does not agree with the shards of the train split"
