"""``electra-data build``: from sources to a finished store, in steps that a restart continues."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import tokenizers
from tokenizers import Tokenizer

from data_pipeline.build.claim import claimed, finished_store, input_identity, record_inputs, refuse_changed
from data_pipeline.build.decisions import Decided, decide
from data_pipeline.build.finish import clear_work, finish_store
from data_pipeline.build.left_out import report_lines
from data_pipeline.build.pool import Workers, check_engine, expect_workers, start_workers
from data_pipeline.build.records import Work
from data_pipeline.build.steps import (
    TaskJob,
    encoder,
    open_step,
    publish_step,
    read_and_tokenize_step,
    read_step,
    sample_step,
    some_texts,
    tokenize_step,
)
from data_pipeline.config import BuildConfig, check_config
from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Missing, Place
from data_pipeline.progress import log, track
from data_pipeline.read.documents import check_contents
from data_pipeline.read.inputs import Input, find_inputs
from data_pipeline.read.tasks import plan_tasks
from data_pipeline.store.manifest import Manifest, canonical_json
from data_pipeline.store.shard import SHARD_VERSION, ids_dtype
from data_pipeline.tokenize.byte_level import train_byte_level
from data_pipeline.tokenize.description import describe, tokenizer_json
from data_pipeline.tokenize.encoding import choose_encoder
from data_pipeline.tokenize.existing import read_tokenizer
from data_pipeline.tokenize.roles import BERT_ROLES, Roles
from data_pipeline.tokenize.tokenizer import vocabulary_size
from data_pipeline.tokenize.vocabulary import TrainingStatistics, train_tokenizer

# Raised when the same settings would give other bytes than an older release did.
BUILD_VERSION = 2

# Raised when what tasks record is read or made otherwise: an unfinished build of an earlier release starts again.
_WORK_VERSION = 2

# An encoder is tried on this many documents of each of so many tasks, spread over the corpus.
_TRIED_TASKS = 16
_TRIED_DOCUMENTS = 25


def build_store(config: BuildConfig, ranks: Executor | None = None) -> Manifest:
    """Build the store that ``config`` describes, continue it, or find it finished.

    Args:
        ranks: runs tasks on the other ranks of an MPI launch; None to work on this machine.

    Raises:
        UserError: bad settings or inputs; no document survives; the store was built with other settings;
            another build is running on it.
    """
    check_config(config)
    check_engine(config.engine, ranks)
    place = open_place(config.out)
    inputs = find_inputs(config.sources, config.out, log)
    if sum(entry.size for entry in inputs) > config.task_bytes:
        expect_workers(config.workers, ranks)
    given = read_tokenizer(config.tokenizer.path, config.tokenizer.lowers, log) if config.tokenizer.path else None
    settings = _settings(config, inputs, given)
    key = _build_key(settings, inputs)
    finished = finished_store(place, settings, inputs)
    if finished is not None:
        clear_work(Work(place.url, key, in_place=is_object_store(place.url)))
        log(f"{place.url} is already built from these inputs and settings: nothing to do")
        return finished
    check_contents(config.sources, inputs, log)
    tasks = plan_tasks(config.sources, inputs, config.task_bytes)
    if not tasks:
        raise UserError("the inputs hold no bytes: every matched file is empty; check sources")
    with (
        claimed(place, key, settings) as work,
        start_workers(config.workers, len(tasks), ranks) as workers,
    ):
        jobs = [
            TaskJob(
                work=work,
                task=task,
                source=config.sources[task.source],
                clean=config.clean,
                tokenizer=config.tokenizer,
                ids_type=config.ids_type,
                held_out=config.held_out,
            )
            for task in tasks
        ]
        record_inputs(place, inputs)
        try:
            manifest, decided = _run_steps(config, place, settings, inputs, jobs, given, workers)
        except Missing:
            # An equal build on another machine may have finished the store and cleared the records.
            finished = finished_store(place, settings, inputs)
            if finished is None:
                raise
            clear_work(work)
            log(f"{place.url} was finished by another build of the same settings")
            return finished
        clear_work(work)
    log(_summary(place, manifest))
    for line in report_lines(decided.left_out, decided.examples, manifest.counts, inputs):
        log(line)
    return manifest


def _settings(config: BuildConfig, inputs: Sequence[Input], given: tuple[Tokenizer, Roles] | None) -> dict[str, Any]:
    """What decides the store's bytes: no worker count, and no path, so that it can be built elsewhere.

    Raises:
        UserError: ``ids_type`` can't hold the vocabulary.
    """
    settings = dataclasses.asdict(config)
    for name in ("out", "workers", "engine", "memory", "most_left_out"):
        del settings[name]
    for index, source in enumerate(settings["sources"]):
        for name in ("paths", "name"):
            del source[name]
        source["inputs"] = [{"name": entry.name, "size": entry.size} for entry in inputs if entry.source == index]
    if given is not None:
        tokenizer, roles = describe(given[0]), given[1]
        ids_dtype(tokenizer.size, config.ids_type)
        settings["tokenizer"] = {"existing": tokenizer.fingerprint}
        if roles != BERT_ROLES:
            settings["tokenizer"]["roles"] = dataclasses.asdict(roles)
    else:
        ids_dtype(config.tokenizer.vocab_size, config.ids_type)
        trained = settings["tokenizer"] | {"lowercase": config.tokenizer.lowers}
        # A store of a release that knew one kind has the same settings.
        left_out = ("path", "alphabet") if config.tokenizer.kind == "bpe" else ("path", "kind")
        settings["tokenizer"] = {name: value for name, value in trained.items() if name not in left_out}
    settings["build_version"] = BUILD_VERSION
    settings["shard_version"] = SHARD_VERSION
    return settings


def _build_key(settings: dict[str, Any], inputs: Sequence[Input]) -> str:
    identities = [input_identity(entry) for entry in inputs]
    versions = [tokenizers.__version__, unicodedata.unidata_version, _WORK_VERSION]
    return hashlib.sha256(canonical_json([settings, identities, versions])).hexdigest()[:32]


def _run_steps(
    config: BuildConfig,
    place: Place,
    settings: dict[str, Any],
    inputs: Sequence[Input],
    jobs: Sequence[TaskJob],
    given: tuple[Tokenizer, Roles] | None,
    workers: Workers,
) -> tuple[Manifest, Decided]:
    work = jobs[0].work
    if given is not None:
        # As it is once it has been saved and loaded, by whoever uses the store.
        saved = Tokenizer.from_str(tokenizer_json(given[0]).decode())
        _put_once(work, work.tokenizer, tokenizer_json(saved))
        jobs = _with_encoder(jobs, work, workers)
        _run("read and tokenize", read_and_tokenize_step, jobs, work.read, workers)
        decided = decide(config, jobs, inputs)
        open_jobs = [job for job in jobs if job.task.index in decided.recorded]
        _run("publish", publish_step, open_jobs, work.tokens, workers)
    else:
        _run("read", read_step, jobs, work.read, workers)
        decided = decide(config, jobs, inputs)
        _train(config, jobs, decided, workers)
        jobs = _with_encoder(jobs, work, workers)
        # The text was kept, so that this step does not notice when its source has changed.
        refuse_changed(inputs, find_inputs(config.sources, config.out))
        _run("tokenize", tokenize_step, jobs, work.tokens, workers)
    return finish_store(place, work, jobs, settings, decided), decided


def _put_once(work: Work, name: str, data: bytes) -> None:
    if work.place.stat(name) is None:
        work.place.put(name, data)


def _run(
    label: str,
    step: Callable[[TaskJob], None],
    jobs: Sequence[TaskJob],
    record: Callable[[int], str],
    workers: Workers,
) -> None:
    finished = jobs[0].work.finished() if jobs else set()
    open_jobs = [job for job in jobs if record(job.task.index) not in finished]
    done = len(jobs) - len(open_jobs)
    if done:
        log(f"{label}: continuing, {done} of {len(jobs)} tasks were finished before")
    if open_jobs:
        track(workers.run(step, open_jobs), len(jobs), done, label)


def _with_encoder(jobs: Sequence[TaskJob], work: Work, workers: Workers) -> list[TaskJob]:
    """Choose the quickest encoder that gives the tokenizer's own ids on this corpus, once per build."""
    if work.place.stat(work.encoder) is None:
        workers.prepare(open_step, jobs[0])
        step = max(1, len(jobs) // _TRIED_TASKS)
        sample = [text for job in jobs[::step][:_TRIED_TASKS] for text in some_texts(job, _TRIED_DOCUMENTS)]
        choice = choose_encoder(work.place.read(work.tokenizer), sample, functools.partial(encoder, work))
        log(choice.line)
        work.put_json(work.encoder, {"name": choice.name})
    name = work.load_json(work.encoder)["name"]
    return [dataclasses.replace(job, encoder=name) for job in jobs]


def _train(config: BuildConfig, jobs: Sequence[TaskJob], decided: Decided, workers: Workers) -> None:
    work = jobs[0].work
    if work.place.stat(work.tokenizer) is not None:
        return
    chosen = [job for job in jobs if job.task.index in decided.sampled]
    _run("sample", sample_step, chosen, work.sample, workers)
    statistics = TrainingStatistics()
    for job in chosen:
        statistics.add_record(work.load_json(work.sample(job.task.index)))
    for line in statistics.report():
        log(line)
    bytes_ = config.tokenizer.kind == "bpe"
    log(f"vocabulary: training {config.tokenizer.vocab_size:,} entries{' of byte-level BPE' if bytes_ else ''}")
    train = train_byte_level if bytes_ else train_tokenizer
    tokenizer = train(_sampled_texts(work, chosen), statistics, config.tokenizer)
    found = vocabulary_size(tokenizer)
    if found < config.tokenizer.vocab_size:
        log(f"vocabulary: the text gives {found:,} entries, not {config.tokenizer.vocab_size:,}")
    work.place.put(work.tokenizer, tokenizer_json(tokenizer))


def _sampled_texts(work: Work, jobs: Sequence[TaskJob]) -> Iterator[str]:
    for job in jobs:
        yield from work.load_json(work.sample(job.task.index))["texts"]


def _summary(place: Place, manifest: Manifest) -> str:
    counts = manifest.counts
    return (
        f"built {place.url}: {counts['documents']:,} documents with {counts['tokens']:,} tokens to train on, "
        f"{counts['documents_heldout']:,} with {counts['tokens_heldout']:,} held out, "
        f"vocabulary {manifest.tokenizer.vocab_size:,}, fingerprint {manifest.fingerprint[:12]}"
    )
