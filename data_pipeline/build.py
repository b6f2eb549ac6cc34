"""``electra-data build``: from sources to a finished store, in steps that a restart continues."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from data_pipeline.atomic import replacing, sha256_of, sync_folder, write_bytes
from data_pipeline.config import BuildConfig, check_config
from data_pipeline.errors import UserError
from data_pipeline.inputs import Input, Task, find_inputs, plan_tasks
from data_pipeline.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    FileEntry,
    Manifest,
    ShardEntry,
    canonical_json,
    load_manifest,
    manifest_fingerprint,
    write_manifest,
)
from data_pipeline.merge import HELD_OUT, KEPT, SAMPLED, judge
from data_pipeline.pool import Workers, start_workers
from data_pipeline.progress import say, track
from data_pipeline.records import WORK_FOLDER, WorkFolder, load_record, open_work_folder, store_lock
from data_pipeline.shard import SHARD_VERSION, ids_dtype
from data_pipeline.steps import TaskJob, read_step, sample_step, tokenize_step
from data_pipeline.tokenizer import read_tokenizer, save_tokenizer, tokenizer_json, vocabulary_size
from data_pipeline.vocabulary import CharacterStatistics, train_tokenizer

TOKEN_COUNTS_NAME = "token_counts.npy"
# Raised when the same settings would give other bytes than an older release did.
BUILD_VERSION = 1

_FINISHED = "finished.json"
_SHARD_NAME = re.compile(r"(train|heldout)-\d{6,}-\d{2,}\.arrow")
_READ_COUNTS = ("documents_read", "bytes_read", "bad_lines", "too_short", "too_long")


def build_store(config: BuildConfig) -> Manifest:
    """Build the store that ``config`` describes, continue it, or find it finished.

    Raises:
        UserError: bad settings or inputs; no document survives; the store was built with other settings;
            another build is running on it.
    """
    check_config(config)
    store = Path(config.out).expanduser()
    inputs = find_inputs(config.sources)
    settings = _settings(config, inputs)
    finished = _finished_store(store, settings, inputs)
    if finished is not None:
        say(f"{store} is already built from these inputs and settings: nothing to do")
        return finished
    _refuse_foreign_folder(store)
    tasks = plan_tasks(config.sources, inputs, config.task_bytes)
    if not tasks:
        raise UserError("the inputs hold no bytes: every matched file is empty; check sources")
    with store_lock(store):
        work = open_work_folder(store, _build_key(settings, inputs))
        jobs = [
            TaskJob(
                work=work,
                task=task,
                source=config.sources[task.source],
                clean=config.clean,
                lowercase=config.tokenizer.lowercase,
                ids_type=config.ids_type,
            )
            for task in tasks
        ]
        if config.tokenizer.path:
            _use_tokenizer(config, work)
        with start_workers(config.engine, config.workers, len(tasks)) as workers:
            _run("read", read_step, jobs, work.read, workers)
            jobs, counts = _merge(config, jobs)
            if not config.tokenizer.path:
                _train(config, jobs, work, workers)
            _run("tokenize", tokenize_step, jobs, work.tokens, workers)
        manifest = _finish(store, work, tasks, settings, counts)
        identities = {f"{entry.source}:{entry.location}": _identity(entry) for entry in inputs}
        write_bytes(store / WORK_FOLDER / _FINISHED, json.dumps(identities, indent=1).encode())
        shutil.rmtree(work.path)
    say(_summary(store, manifest))
    return manifest


def _settings(config: BuildConfig, inputs: Sequence[Input]) -> dict[str, Any]:
    """What decides the store's bytes: no worker count, and no path, so that it can be built elsewhere.

    Raises:
        UserError: the existing tokenizer can't be used, or ``ids_type`` can't hold the vocabulary.
    """
    settings = dataclasses.asdict(config)
    for name in ("out", "workers", "engine"):
        del settings[name]
    for index, source in enumerate(settings["sources"]):
        for name in ("paths", "name"):
            del source[name]
        source["inputs"] = [{"name": entry.name, "size": entry.size} for entry in inputs if entry.source == index]
    if config.tokenizer.path:
        tokenizer = read_tokenizer(config.tokenizer.path, config.tokenizer.lowercase)
        ids_dtype(vocabulary_size(tokenizer), config.ids_type)
        digest = hashlib.sha256(tokenizer_json(tokenizer)).hexdigest()
        settings["tokenizer"] = {"existing": digest}
    else:
        ids_dtype(config.tokenizer.vocab_size, config.ids_type)
        del settings["tokenizer"]["path"]
    settings["build_version"] = BUILD_VERSION
    settings["shard_version"] = SHARD_VERSION
    return settings


def _identity(entry: Input) -> str:
    return f"{entry.size} {entry.identity}"


def _build_key(settings: dict[str, Any], inputs: Sequence[Input]) -> str:
    identities = [_identity(entry) for entry in inputs]
    versions = [tokenizers.__version__, unicodedata.unidata_version]
    return hashlib.sha256(canonical_json([settings, identities, versions])).hexdigest()[:32]


def _finished_store(store: Path, settings: dict[str, Any], inputs: Sequence[Input]) -> Manifest | None:
    """The manifest when the store is finished from the same settings and inputs, None when there is none."""
    if not (store / MANIFEST_NAME).exists():
        return None
    manifest = load_manifest(store)
    if manifest.settings != settings:
        raise UserError(
            f"{store} was built with other settings ({_difference(manifest.settings, settings)}): "
            "choose another out, or remove the store to build it anew; nothing was changed"
        )
    try:
        identities = json.loads((store / WORK_FOLDER / _FINISHED).read_bytes())
    except FileNotFoundError:
        # A copied store has no work folder; its settings list the inputs by name and size.
        return manifest
    for entry in inputs:
        if identities.get(f"{entry.source}:{entry.location}") != _identity(entry):
            raise UserError(
                f"{store} was built before {entry.location} changed: choose another out, or remove the store "
                "to build it anew; nothing was changed"
            )
    return manifest


def _difference(old: Any, new: Any, key: str = "") -> str:
    """The first setting that differs, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                return _difference(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            if left != right:
                return _difference(left, right, f"{key}[{index}]")
    left, right = (text if len(text) <= 80 else f"{text[:77]}..." for text in (repr(old), repr(new)))
    return f"{key} was {left}, now {right}"


def _refuse_foreign_folder(store: Path) -> None:
    if store.exists() and not store.is_dir():
        raise UserError(f"out is {store}, which is a file: choose the name of a new folder")
    if store.is_dir() and any(store.iterdir()) and not (store / WORK_FOLDER).is_dir():
        raise UserError(f"{store} is not empty and not a store: choose a new or empty folder for out")


def _run(
    label: str,
    step: Callable[[TaskJob], None],
    jobs: Sequence[TaskJob],
    record: Callable[[int], Path],
    workers: Workers,
) -> None:
    open_jobs = [job for job in jobs if not record(job.task.index).exists()]
    done = len(jobs) - len(open_jobs)
    if done:
        say(f"{label}: continuing, {done} of {len(jobs)} tasks were finished before")
    if open_jobs:
        track(workers.run(step, open_jobs), len(jobs), done, label)


def _merge(config: BuildConfig, jobs: Sequence[TaskJob]) -> tuple[list[TaskJob], dict[str, int]]:
    """Judge every document; jobs come back knowing where their verdicts start."""
    work = jobs[0].work
    records = [load_record(work.read(job.task.index)) for job in jobs]
    counts = {name: sum(int(record.info[name]) for record in records) for name in _READ_COUNTS}
    verdicts = judge(
        [record.arrays["hashes"] for record in records],
        [record.arrays["sizes"] for record in records],
        deduplicate=config.clean.deduplicate,
        held_out=config.held_out,
        sample_bytes=0 if config.tokenizer.path else config.tokenizer.sample_bytes,
        seed=config.tokenizer.seed,
    )
    kept = (verdicts & KEPT) != 0
    counts["duplicates"] = int((~kept).sum())
    if not kept.any():
        told = ", ".join(f"{name} {value:,}" for name, value in counts.items())
        raise UserError(f"no document is left to build from ({told}): check sources and clean")
    if not (kept & ((verdicts & HELD_OUT) == 0)).any():
        raise UserError(
            f"all {int(kept.sum())} documents fall into the held-out split (held_out {config.held_out}): "
            "lower held_out, set it to 0, or give more documents"
        )
    if not work.merged.exists():
        buffer = io.BytesIO()
        np.save(buffer, verdicts)
        write_bytes(work.merged, buffer.getvalue())
    starts = np.cumsum([0, *(len(record.arrays["sizes"]) for record in records)])
    placed = [dataclasses.replace(job, first=int(start)) for job, start in zip(jobs, starts[:-1], strict=True)]
    return placed, counts


def _use_tokenizer(config: BuildConfig, work: WorkFolder) -> None:
    tokenizer = read_tokenizer(str(config.tokenizer.path), config.tokenizer.lowercase)
    write_bytes(work.tokenizer, tokenizer_json(tokenizer))


def _train(config: BuildConfig, jobs: Sequence[TaskJob], work: WorkFolder, workers: Workers) -> None:
    if work.tokenizer.exists():
        return
    verdicts = np.load(work.merged, mmap_mode="r")
    ends = [job.first for job in jobs[1:]] + [len(verdicts)]
    chosen = [job for job, end in zip(jobs, ends, strict=True) if (verdicts[job.first : end] & SAMPLED).any()]
    _run("sample", sample_step, chosen, work.sample, workers)
    statistics = CharacterStatistics()
    for job in chosen:
        record = _sample(work, job.task)
        statistics.counts.update(record["counts"])
        statistics.inner.update(record["inner"])
    say(f"vocabulary: training {config.tokenizer.vocab_size:,} entries")
    tokenizer = train_tokenizer(_sampled_texts(work, chosen), statistics, config.tokenizer)
    found = vocabulary_size(tokenizer)
    if found < config.tokenizer.vocab_size:
        say(f"vocabulary: the text gives {found:,} entries, not {config.tokenizer.vocab_size:,}")
    write_bytes(work.tokenizer, tokenizer_json(tokenizer))


def _sample(work: WorkFolder, task: Task) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(work.sample(task.index).read_bytes())
    return record


def _sampled_texts(work: WorkFolder, jobs: Sequence[TaskJob]) -> Iterator[str]:
    for job in jobs:
        yield from _sample(work, job.task)["texts"]


def _finish(
    store: Path, work: WorkFolder, tasks: Sequence[Task], settings: dict[str, Any], counts: dict[str, int]
) -> Manifest:
    """Move the shards into the store and describe it; the manifest comes last."""
    shards: list[ShardEntry] = []
    token_counts = np.zeros(vocabulary_size(read_tokenizer(work.tokenizer, lowercase=False)), np.int64)
    counts |= {"unknown_tokens": 0, "without_tokens": 0}
    for task in tasks:
        record = load_record(work.tokens(task.index))
        shards.extend(ShardEntry(**entry) for entry in record.info["shards"])
        token_counts += record.arrays["token_counts"]
        for name in ("unknown_tokens", "without_tokens"):
            counts[name] += int(record.info[name])
    for name, split in (("", "train"), ("_heldout", "heldout")):
        counts[f"documents{name}"] = sum(shard.rows for shard in shards if shard.split == split)
        counts[f"tokens{name}"] = sum(shard.tokens for shard in shards if shard.split == split)
    _move_shards(store, work, {shard.name for shard in shards})
    tokenizer = save_tokenizer(store, read_tokenizer(work.tokenizer, lowercase=False))
    with replacing(store / TOKEN_COUNTS_NAME) as temporary, open(temporary, "wb") as file:
        np.save(file, token_counts)
    manifest = Manifest(
        version=MANIFEST_VERSION,
        fingerprint=manifest_fingerprint(tokenizer.fingerprint, settings, shards),
        tokenizer=tokenizer,
        shards=shards,
        counts=dict(sorted(counts.items())),
        settings=settings,
        token_counts=FileEntry(TOKEN_COUNTS_NAME, sha256_of(store / TOKEN_COUNTS_NAME)),
    )
    write_manifest(store, manifest)
    return manifest


def _move_shards(store: Path, work: WorkFolder, names: set[str]) -> None:
    # A build that was killed right here and then given up for other settings may have left shards.
    for path in store.iterdir():
        if _SHARD_NAME.fullmatch(path.name) and path.name not in names:
            path.unlink()
    for name in sorted(names):
        finished = work.shards / name
        if finished.exists():
            os.replace(finished, store / name)
    sync_folder(store)


def _summary(store: Path, manifest: Manifest) -> str:
    counts = manifest.counts
    return (
        f"built {store}: {counts['documents']:,} documents with {counts['tokens']:,} tokens to train on, "
        f"{counts['documents_heldout']:,} with {counts['tokens_heldout']:,} held out, "
        f"vocabulary {manifest.tokenizer.vocab_size:,}, fingerprint {manifest.fingerprint[:12]}"
    )
