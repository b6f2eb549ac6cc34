"""``electra-data inspect``: what a store holds, in words and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data_pipeline.errors import UserError
from data_pipeline.places.open import local_copy, open_place
from data_pipeline.places.place import Place
from data_pipeline.progress import counted
from data_pipeline.read.passed_over import shown
from data_pipeline.store.left_out import left_out_lines, load_left_out
from data_pipeline.store.manifest import SPLITS, Manifest, ShardEntry, load_manifest
from data_pipeline.store.shard import open_shard
from data_pipeline.tokenize.description import describe
from data_pipeline.tokenize.roles import BERT_ROLES
from data_pipeline.tokenize.spelling import Spelling
from data_pipeline.tokenize.tokenizer import load_with_roles

_SAMPLE_TOKENS = 60


def describe_store(store: str | Path, samples: int) -> Iterator[str]:
    """Lines that describe a store, a folder or ``s3://bucket/prefix``, and ``samples`` decoded documents spread
    over the train split.

    Raises:
        UserError: not a finished store, a damaged one, or an object store that does not answer.
    """
    if samples < 0:
        raise UserError(f"--samples is {samples}: it must be at least 0")
    place = open_place(store)
    manifest = load_manifest(place)
    yield f"store        {place.url}"
    yield f"fingerprint  {manifest.fingerprint}"
    tokenizer = manifest.tokenizer
    loaded, roles = load_with_roles(place.url)
    kind = Spelling(loaded).kind
    yield f"tokenizer    {kind}, {tokenizer.vocab_size:,} entries, fingerprint {tokenizer.fingerprint}"
    if roles != BERT_ROLES:
        yield f"special      {', '.join(f'{role} {name}' for role, name in roles.named().items())}"
    for split in SPLITS:
        yield f"{split:<12} {_amount(manifest.split(split))}"
    yield "sources"
    for label in source_labels(manifest):
        for split in SPLITS:
            shards = [shard for shard in manifest.split(split) if shard.source == label]
            if shards:
                yield f"  {label} ({split}): {_amount(shards)}"
    everything = manifest.counts.get("tokens", 0) + manifest.counts.get("tokens_heldout", 0)
    unknown = manifest.counts.get("unknown_tokens", 0)
    name = describe(loaded).unknown_token
    if name is None:
        yield "unknown      none, the tokenizer has no token for what it does not know"
    else:
        yield f"{name:<12} {unknown:,} tokens, {100 * unknown / max(1, everything):.4f} %"
    yield "counts"
    for name, value in sorted(manifest.counts.items()):
        yield f"  {name:<20} {value:,}"
    for part in load_left_out(place):
        yield from left_out_lines(part, {file.input: shown(file.name) for file in part.files})
    yield from _samples(place, manifest, loaded, samples)


def source_labels(manifest: Manifest) -> list[str]:
    """The labels of the sources that shards come from, in the order in which they first occur."""
    return list(dict.fromkeys(shard.source for shard in manifest.shards))


def _amount(shards: Sequence[ShardEntry]) -> str:
    rows, tokens = sum(shard.rows for shard in shards), sum(shard.tokens for shard in shards)
    megabytes = sum(shard.bytes for shard in shards) / 1e6
    return (
        f"{counted(len(shards), 'shard')}, {counted(rows, 'document')}, {counted(tokens, 'token')} "
        f"({tokens / max(1, rows):.0f} a document), {megabytes:.1f} MB"
    )


def _samples(place: Place, manifest: Manifest, tokenizer: Tokenizer, samples: int) -> Iterator[str]:
    shards = manifest.split("train")
    starts = np.cumsum([0, *(shard.rows for shard in shards)])
    rows = int(starts[-1])
    if not samples or not rows:
        return
    for number in range(min(samples, rows)):
        row = number * rows // min(samples, rows)
        index = int(np.searchsorted(starts, row, side="right")) - 1
        local = row - int(starts[index])
        with local_copy(place, shards[index].name) as path:
            where = f"{place.url}/{shards[index].name}"
            shard = open_shard(path, manifest.tokenizer.fingerprint, where)
            if local >= len(shard.doc):
                raise UserError(
                    f"{shards[index].name} has fewer rows than the manifest lists: run `electra-data verify`"
                )
            ids = shard.ids[shard.offsets[local] : shard.offsets[local + 1]]
            text = tokenizer.decode(ids[:_SAMPLE_TOKENS].tolist(), skip_special_tokens=False)
            more = " ..." if len(ids) > _SAMPLE_TOKENS else ""
            line = f"sample {number + 1} (doc {int(shard.doc[local]):016x}, {len(ids)} tokens): {text}{more}"
        yield line
