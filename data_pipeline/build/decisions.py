"""The serial step of a build: all read records go in, counts and one record of decisions per task come out."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.build.left_out import Gathered, refuse_share
from data_pipeline.build.records import Record, Work
from data_pipeline.build.steps import TaskJob
from data_pipeline.config import BuildConfig
from data_pipeline.deduplicate.choose import HELD_OUT, KEPT, NEAR, SAMPLED, TaskDocuments, choose_documents
from data_pipeline.errors import UserError
from data_pipeline.places.atomic import disk_full
from data_pipeline.places.scratch import scratch_folder
from data_pipeline.progress import log
from data_pipeline.read.inputs import Input
from data_pipeline.store.left_out import LeftOut, left_out_from, left_out_lines

# Records are small and an object store answers slowly: some are fetched ahead.
_FETCHED_AHEAD = 8


@dataclasses.dataclass(frozen=True)
class Decided:
    """What the serial step decided. ``counts`` go into the manifest; ``recorded`` are the tasks with a record of
    decisions, ``sampled`` those with text to train the vocabulary on. ``left_out`` has the records that gave no text,
    ``examples`` a file for each reason to drop a document."""

    counts: dict[str, int]
    recorded: frozenset[int]
    sampled: frozenset[int]
    left_out: list[LeftOut]
    examples: dict[str, str]


def decide(config: BuildConfig, jobs: Sequence[TaskJob], inputs: Sequence[Input]) -> Decided:
    """Decide on every document and record the decisions of the tasks that need them, or find that done.

    Raises:
        UserError: no document is left, or none for the train split; a source has more records without text than
            ``config.most_left_out`` allows.
    """
    work = jobs[0].work
    if work.place.stat(work.decided) is None:
        _decide_all(config, jobs, inputs, work)
    # Its keys, like the names of the records, are those of builds that an earlier release began.
    found = work.load_json(work.decided)
    left_out = left_out_from(found.get("left_out", []))
    refuse_share(config, left_out, inputs)
    return Decided(
        found["counts"],
        frozenset(found["judged"]),
        frozenset(found["sampled"]),
        left_out,
        found.get("examples", {}),
    )


def _decide_all(config: BuildConfig, jobs: Sequence[TaskJob], inputs: Sequence[Input], work: Work) -> None:
    gathered = Gathered(config, inputs)
    counts: collections.Counter[str] = collections.Counter()
    documents: list[int] = []
    near_keys = 0
    for job, record in zip(jobs, _records(work, jobs, "bands"), strict=True):
        gathered.add(job.task.source, record.info)
        counts.update(record.info["counts"])
        documents.append(int(record.info["documents"]))
        near_keys = max(near_keys, record.arrays["bands"].shape[1])

    def tasks() -> Iterator[TaskDocuments]:
        for record in _records(work, jobs, "hashes", "sizes", "bands"):
            arrays = record.arrays
            yield TaskDocuments(arrays["hashes"], arrays["sizes"], arrays["bands"])

    sample_bytes = 0 if config.tokenizer.path else config.tokenizer.sample_bytes
    fewest = 1 + (near_keys > 0) + 2 * (sample_bytes > 0)
    with _scratch(sum(documents)) as decisions:
        passes = choose_documents(
            tasks,
            documents,
            decisions,
            deduplicate=config.clean.deduplicate,
            near_keys=near_keys,
            held_out=config.held_out,
            sample_bytes=sample_bytes,
            seed=config.tokenizer.seed,
            memory=config.memory,
        )
        if passes > fewest:
            log(f"de-duplicate: {sum(documents):,} documents in {passes} passes over the records, as memory allows")
        if decisions.any():
            # Before anything is recorded, so that the same build with a higher share decides anew.
            refuse_share(config, gathered.result(), inputs)
        _record_decisions(config, jobs, work, decisions, documents, counts, gathered)


def _record_decisions(
    config: BuildConfig,
    jobs: Sequence[TaskJob],
    work: Work,
    decisions: npt.NDArray[np.uint8],
    documents: Sequence[int],
    counts: collections.Counter[str],
    gathered: Gathered,
) -> None:
    recorded: list[int] = []
    sampled: list[int] = []
    train = 0
    starts = np.cumsum([0, *documents])
    with ThreadPoolExecutor(_FETCHED_AHEAD) as threads:
        puts = []
        records = _records(work, jobs, "words", "characters", "lengths")
        for job, record, start in zip(jobs, records, starts[:-1], strict=True):
            task, arrays = job.task.index, record.arrays
            here = np.array(decisions[start : start + len(arrays["words"])])
            kept = (here & KEPT) != 0
            trained_on = kept & ((here & HELD_OUT) == 0)
            train += int(trained_on.sum())
            counts["kept"] += int(kept.sum())
            counts["near_duplicates"] += int(((here & NEAR) != 0).sum())
            counts["duplicates"] += int((here == 0).sum())
            counts["words"] += int(arrays["words"][trained_on].sum())
            counts["characters"] += int(arrays["characters"][trained_on].sum())
            gathered.add_dropped("duplicates", record.info, here == 0)
            gathered.add_dropped("near_duplicates", record.info, (here & NEAR) != 0)
            if (here & SAMPLED).any():
                sampled.append(task)
            if config.tokenizer.path:
                counts["without_tokens"] += int((kept & (arrays["lengths"] == 0)).sum())
                # What an object store has under its final name never changes, so early shards move there.
                early = job.losing and bool(record.info["shards"])
                needed = early and (work.in_place or bool((~kept & (arrays["lengths"] > 0)).any()))
            else:
                needed = True
            if needed:
                recorded.append(task)
                puts.append(threads.submit(work.put_record, work.decisions(task), {"verdicts": here}, {}))
            while len(puts) > _FETCHED_AHEAD:
                puts.pop(0).result()
        for put in puts:
            put.result()
    kept_documents = counts.pop("kept", 0)
    left_out = gathered.result()
    if not kept_documents:
        listed = ", ".join(f"{name} {value:,}" for name, value in counts.items())
        raise UserError(
            "; ".join(
                [
                    f"no document is left to build from ({listed}): check sources and clean",
                    *(line.strip() for part in left_out for line in left_out_lines(part, {}, most=3)),
                ]
            )
        )
    if not train:
        raise UserError(
            f"all {kept_documents} documents fall into the held-out split (held_out {config.held_out}): "
            "lower held_out, set it to 0, or give more documents"
        )
    work.put_json(
        work.decided,
        {
            "counts": dict(counts),
            "judged": recorded,
            "sampled": sampled,
            "left_out": [dataclasses.asdict(part) for part in left_out],
            "examples": gathered.examples,
        },
    )


def _records(work: Work, jobs: Sequence[TaskJob], *arrays: str) -> Iterator[Record]:
    """What reading left of each task, with these arrays."""
    names = [work.read(job.task.index) for job in jobs]
    load = functools.partial(work.load_record, arrays=arrays)
    if not work.in_place:
        yield from map(load, names)
        return
    with ThreadPoolExecutor(_FETCHED_AHEAD) as threads:
        ahead = [threads.submit(load, name) for name in names[:_FETCHED_AHEAD]]
        for index in range(len(names)):
            record = ahead.pop(0).result()
            if index + _FETCHED_AHEAD < len(names):
                ahead.append(threads.submit(load, names[index + _FETCHED_AHEAD]))
            yield record


@contextmanager
def _scratch(documents: int) -> Iterator[npt.NDArray[Any]]:
    """(documents,) uint8 zeros in a temporary file, so that they need not stay in memory."""
    with tempfile.TemporaryFile(prefix="electra-data-", dir=scratch_folder()) as file:
        if not documents:
            yield np.zeros(0, np.uint8)
            return
        try:
            # Writing to a map of space that the disk doesn't have would end the process with a signal.
            os.posix_fallocate(file.fileno(), 0, documents)
        except OSError as error:
            if not disk_full(error):
                raise
            raise UserError(
                f"no space for {documents:,} bytes in {scratch_folder()}: free some, or point TMPDIR elsewhere"
            ) from error
        yield np.memmap(file, np.uint8, "r+", shape=(documents,))
