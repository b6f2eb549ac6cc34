"""``electra-data verify``: every checksum and every count of a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.atomic import sha256_of
from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest, ShardEntry, load_manifest
from data_pipeline.shard import open_shard
from data_pipeline.tokenizer import load_tokenizer, tokenizer_fingerprint, vocabulary_size


def verify_store(store: str | Path) -> list[str]:
    """All faults of a store, one line each that begins with the file's name; empty when it is sound.

    Raises:
        UserError: there is no readable manifest to compare with.
    """
    manifest = load_manifest(store)
    folder = Path(store)
    problems: list[str] = []
    totals = np.zeros(manifest.tokenizer.vocab_size, np.int64)
    for entry in manifest.shards:
        problems.extend(_shard_problems(folder, entry, manifest, totals))
    for name, checksum in [*manifest.tokenizer.files.items(), _token_counts_entry(manifest)]:
        problems.extend(_checksum_problems(folder, name, checksum))
    if not problems:
        problems.extend(_content_problems(folder, manifest, totals))
    return problems


def _token_counts_entry(manifest: Manifest) -> tuple[str, str]:
    return manifest.token_counts.name, manifest.token_counts.sha256


def _checksum_problems(folder: Path, name: str, checksum: str) -> Iterator[str]:
    try:
        found = sha256_of(folder / name)
    except FileNotFoundError:
        yield f"{name}: missing"
    except OSError as error:
        yield f"{name}: cannot be read ({error.strerror})"
    else:
        if found != checksum:
            yield f"{name}: wrong checksum, {found[:12]} instead of {checksum[:12]}"


def _shard_problems(folder: Path, entry: ShardEntry, manifest: Manifest, totals: np.ndarray) -> Iterator[str]:
    wrong = list(_checksum_problems(folder, entry.name, entry.sha256))
    if wrong:
        yield from wrong
        return
    size = (folder / entry.name).stat().st_size
    if size != entry.bytes:
        yield f"{entry.name}: {size} bytes, the manifest says {entry.bytes}"
    try:
        shard = open_shard(folder / entry.name, manifest.tokenizer.fingerprint)
    except UserError as error:
        yield f"{entry.name}: {error}"
        return
    if len(shard.doc) != entry.rows or len(shard.ids) != entry.tokens:
        yield (
            f"{entry.name}: {len(shard.doc)} rows and {len(shard.ids)} tokens, "
            f"the manifest says {entry.rows} and {entry.tokens}"
        )
    if len(shard.ids) and int(shard.ids.max()) >= len(totals):
        yield f"{entry.name}: token id {int(shard.ids.max())} is outside the vocabulary of {len(totals)}"
    elif entry.split == "train":
        totals += np.bincount(shard.ids, minlength=len(totals))


def _content_problems(folder: Path, manifest: Manifest, totals: np.ndarray) -> Iterator[str]:
    for suffix, split in (("", "train"), ("_heldout", "heldout")):
        shards = manifest.split(split)
        for name, found in (
            (f"documents{suffix}", sum(shard.rows for shard in shards)),
            (f"tokens{suffix}", sum(shard.tokens for shard in shards)),
        ):
            if manifest.counts.get(name) != found:
                yield f"manifest.json: counts.{name} is {manifest.counts.get(name)}, the shards hold {found}"
    tokenizer = load_tokenizer(folder)
    if tokenizer_fingerprint(tokenizer) != manifest.tokenizer.fingerprint:
        yield "tokenizer/tokenizer.json: its fingerprint is not the manifest's"
    size = vocabulary_size(tokenizer)
    if size != manifest.tokenizer.vocab_size:
        yield f"tokenizer/tokenizer.json: {size} entries, not {manifest.tokenizer.vocab_size}"
    try:
        counts = np.load(folder / manifest.token_counts.name, allow_pickle=False)
    except (OSError, ValueError) as error:
        yield f"{manifest.token_counts.name}: cannot be read ({error})"
        return
    if counts.shape != totals.shape or not np.array_equal(counts, totals):
        yield f"{manifest.token_counts.name}: does not agree with the shards of the train split"
