"""The end of a build: shards in their places, the manifest last, the records gone."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.build.decisions import Decided
from data_pipeline.build.records import Work
from data_pipeline.build.steps import TaskJob
from data_pipeline.build.unknown import UnknownTokens
from data_pipeline.places.atomic import sync_folder
from data_pipeline.places.place import Place
from data_pipeline.progress import log
from data_pipeline.store.left_out import put_left_out
from data_pipeline.store.manifest import (
    MANIFEST_VERSION,
    Manifest,
    ShardEntry,
    manifest_fingerprint,
    write_manifest,
)
from data_pipeline.store.token_counts import put_token_counts
from data_pipeline.tokenize.description import described
from data_pipeline.tokenize.roles import roles_of
from data_pipeline.tokenize.tokenizer import put_tokenizer

_SHARD_NAME = re.compile(r"(train|heldout)-\d{6,}-\d{2,}\.arrow")
_DELETES_AT_ONCE = 16


def finish_store(
    place: Place, work: Work, jobs: Sequence[TaskJob], settings: dict[str, Any], decided: Decided
) -> Manifest:
    """Bring the shards into the store and describe it; the manifest comes last.

    Raises:
        UserError: a file can't be written; an object store got another manifest meanwhile.
    """
    tokenizer = described(place.read(work.tokenizer))
    token_counts = np.zeros(tokenizer.size, np.int64)
    shards: list[ShardEntry] = []
    # Where each shard of the work folder lies, by its name.
    waiting: dict[str, str] = {}
    counts = {"unknown_tokens": 0, "without_tokens": 0, **decided.counts}
    unknown = UnknownTokens(settings, tokenizer.size, tokenizer.unknown_token)
    for job in jobs:
        task = job.task.index
        final = task in decided.recorded
        record = work.load_record(work.tokens(task) if final else work.read(task), ["token_counts"])
        entries = [ShardEntry(**entry) for entry in record.info["shards"]]
        shards.extend(entries)
        where = work.final_shard if final or not job.losing else work.early_shard
        waiting.update({entry.name: where(entry.name) for entry in entries})
        token_counts += record.arrays["token_counts"]
        counts["unknown_tokens"] += int(record.info["unknown_tokens"])
        unknown.add(job.task.source, record.info, functools.partial(work.load_record, work.read(task), []))
        counts["without_tokens"] += int(record.info.get("without_tokens", 0))
    for name, split in (("", "train"), ("_heldout", "heldout")):
        counts[f"documents{name}"] = sum(shard.rows for shard in shards if shard.split == split)
        counts[f"tokens{name}"] = sum(shard.tokens for shard in shards if shard.split == split)
    if not work.in_place:
        _move_shards(Path(place.url), waiting)
    entry = put_tokenizer(place, tokenizer, roles_of(settings))
    put_left_out(place, decided.left_out)
    manifest = Manifest(
        version=MANIFEST_VERSION,
        fingerprint=manifest_fingerprint(entry.fingerprint, settings, shards),
        tokenizer=entry,
        shards=shards,
        counts=dict(sorted(counts.items())),
        settings=settings,
        token_counts=put_token_counts(place, token_counts),
    )
    write_manifest(place, manifest)
    for line in unknown.lines():
        log(line)
    return manifest


def clear_work(work: Work) -> None:
    """Remove what the build left for its own continuation, if anything."""
    if not work.in_place:
        folder = Path(work.store) / work.prefix
        if folder.exists():
            shutil.rmtree(folder)
        return
    with ThreadPoolExecutor(_DELETES_AT_ONCE) as threads:
        for _ in threads.map(work.place.delete, sorted(work.finished())):
            pass


def _move_shards(store: Path, waiting: dict[str, str]) -> None:
    # A build that was killed right here and then given up for other settings may have left shards.
    for path in store.iterdir():
        if _SHARD_NAME.fullmatch(path.name) and path.name not in waiting:
            path.unlink()
    for name, where in sorted(waiting.items()):
        if (store / where).exists():
            os.replace(store / where, store / name)
    sync_folder(store)
