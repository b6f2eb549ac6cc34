"""``electra-data inspect``: what a store holds, in words and samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.manifest import load_manifest
from data_pipeline.shard import open_shard
from data_pipeline.tokenizer import load_tokenizer

_SAMPLE_TOKENS = 60


def describe_store(store: str | Path, samples: int) -> Iterator[str]:
    """Lines that describe a store, and ``samples`` decoded documents spread over the train split.

    Raises:
        UserError: not a finished store, or a damaged one.
    """
    manifest = load_manifest(store)
    yield f"store        {store}"
    yield f"fingerprint  {manifest.fingerprint}"
    tokenizer = manifest.tokenizer
    yield f"tokenizer    {tokenizer.vocab_size:,} entries, fingerprint {tokenizer.fingerprint}"
    for split in ("train", "heldout"):
        shards = manifest.split(split)
        rows, tokens = sum(shard.rows for shard in shards), sum(shard.tokens for shard in shards)
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        yield (
            f"{split:<12} {len(shards)} shards, {rows:,} documents, {tokens:,} tokens "
            f"({tokens / max(1, rows):.0f} a document), {megabytes:.1f} MB"
        )
    everything = manifest.counts.get("tokens", 0) + manifest.counts.get("tokens_heldout", 0)
    unknown = manifest.counts.get("unknown_tokens", 0)
    yield f"[UNK]        {unknown:,} tokens, {100 * unknown / max(1, everything):.4f} %"
    for name, value in sorted(manifest.counts.items()):
        yield f"  {name:<18} {value:,}"
    yield from _samples(store, samples)


def _samples(store: str | Path, samples: int) -> Iterator[str]:
    manifest = load_manifest(store)
    shards = manifest.split("train")
    rows = sum(shard.rows for shard in shards)
    if samples < 0:
        raise UserError(f"--samples is {samples}: it must be at least 0")
    tokenizer = load_tokenizer(store)
    starts = np.cumsum([0, *(shard.rows for shard in shards)])
    for number in range(min(samples, rows)):
        row = number * rows // min(samples, rows)
        place = int(np.searchsorted(starts, row, side="right")) - 1
        shard = open_shard(Path(store) / shards[place].name, manifest.tokenizer.fingerprint)
        local = row - int(starts[place])
        if local >= len(shard.doc):
            raise UserError(f"{shards[place].name} has fewer rows than the manifest says: run `electra-data verify`")
        ids = shard.ids[shard.offsets[local] : shard.offsets[local + 1]]
        text = tokenizer.decode(ids[:_SAMPLE_TOKENS].tolist(), skip_special_tokens=False)
        more = " ..." if len(ids) > _SAMPLE_TOKENS else ""
        yield f"sample {number + 1} (doc {int(shard.doc[local]):016x}, {len(ids)} tokens): {text}{more}"
