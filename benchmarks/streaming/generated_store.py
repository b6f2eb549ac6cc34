"""A store of random tokens of any size: real shards and a real manifest, made without text."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from data_pipeline.places.atomic import sha256_of
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import (
    MANIFEST_VERSION,
    FileEntry,
    Manifest,
    ShardEntry,
    load_manifest,
    manifest_fingerprint,
    write_manifest,
)
from data_pipeline.store.shard import write_shard
from data_pipeline.tokenize.roles import SPECIAL_TOKENS
from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer

VOCABULARY = 30522
SHARD_BYTES = 16_000_000
MEAN_TOKENS = 1000
"""Of a document."""


def generate(folder: Path, total_bytes: float) -> Manifest:
    """Write a store of about ``total_bytes`` in shards of about 16 MB, unless ``folder`` has it already.

    All shards hold the same random ids, but for a few that number them, so that their checksums differ.
    """
    shards_wanted = max(1, round(total_bytes / SHARD_BYTES))
    settings = {"generated": shards_wanted}
    if (folder / "manifest.json").exists():
        manifest = load_manifest(open_place(folder))
        if manifest.settings == settings:
            return manifest
    folder.mkdir(parents=True, exist_ok=True)
    words = [f"w{number}" for number in range(VOCABULARY - len(SPECIAL_TOKENS))]
    tokens = [*SPECIAL_TOKENS, *words]
    tokenizer = save_tokenizer(
        folder, wordpiece_tokenizer({token: i for i, token in enumerate(tokens)}, lowercase=True)
    )
    generator = np.random.Generator(np.random.Philox(key=0))
    documents = SHARD_BYTES // 2 // MEAN_TOKENS
    lengths = generator.integers(MEAN_TOKENS // 10, 2 * MEAN_TOKENS - MEAN_TOKENS // 10, documents)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = generator.integers(len(SPECIAL_TOKENS), VOCABULARY, int(offsets[-1])).astype(np.uint16)
    counts = np.bincount(flat, minlength=VOCABULARY) * shards_wanted
    entries = []
    for index in range(shards_wanted):
        name = f"train-{index:06d}-00.arrow"
        flat[:2] = len(SPECIAL_TOKENS) + index // 1000, len(SPECIAL_TOKENS) + index % 1000
        doc = np.arange(index * documents, (index + 1) * documents, dtype=np.uint64)
        path = folder / name
        write_shard(path, flat, offsets, doc, vocab_size=VOCABULARY, tokenizer_fingerprint=tokenizer.fingerprint)
        entries.append(ShardEntry(name, "train", "main", documents, len(flat), path.stat().st_size, sha256_of(path)))
    np.save(folder / "token_counts.npy", counts)
    manifest = Manifest(
        version=MANIFEST_VERSION,
        fingerprint=manifest_fingerprint(tokenizer.fingerprint, settings, entries),
        tokenizer=tokenizer,
        shards=entries,
        counts={"documents": documents * shards_wanted, "tokens": len(flat) * shards_wanted},
        settings=settings,
        token_counts=FileEntry(
            "token_counts.npy", hashlib.sha256((folder / "token_counts.npy").read_bytes()).hexdigest()
        ),
    )
    write_manifest(open_place(folder), manifest)
    return manifest
