"""The three steps that run once per task: read, sample, tokenize. Each leaves one finished record."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_pipeline.atomic import sha256_of, write_bytes
from data_pipeline.clean import HASH_BYTES, clean_text, content_hash, refuse_length
from data_pipeline.config import CleanConfig, SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.inputs import Task
from data_pipeline.manifest import ShardEntry
from data_pipeline.merge import HELD_OUT, KEPT, SAMPLED, hash_halves
from data_pipeline.records import WorkFolder, load_record, save_record
from data_pipeline.shard import IdsType, write_shard
from data_pipeline.sources import ReadCounts, read_task
from data_pipeline.tokenizer import UNK, text_encoder, tokenizer_fingerprint, vocabulary_size
from data_pipeline.vocabulary import CharacterStatistics, normalized

# A whole compressed file is one task; its tokens are spread over shards of at most about this many.
MAX_SHARD_TOKENS = 1 << 26
_BATCH_CHARACTERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class TaskJob:
    """All that a worker needs for one task. ``first`` is the place of its first document in the verdicts."""

    work: WorkFolder
    task: Task
    source: SourceConfig
    clean: CleanConfig
    lowercase: bool
    ids_type: IdsType
    first: int = 0


def _documents(job: TaskJob, counts: ReadCounts, dropped: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    for raw in read_task(job.task, job.source, counts):
        text = clean_text(raw, job.clean)
        reason = refuse_length(text, job.clean)
        if reason is None:
            yield text, content_hash(text)
        else:
            dropped[reason] += 1


def read_step(job: TaskJob) -> None:
    """Read and clean a task's documents; record hashes, sizes and counts.

    Raises:
        UserError: an input can't be read.
    """
    counts, dropped = ReadCounts(), {"too_short": 0, "too_long": 0}
    hashes = bytearray()
    sizes: list[int] = []
    for text, digest in _documents(job, counts, dropped):
        hashes += digest
        sizes.append(len(text.encode("utf-8")))
    arrays: dict[str, npt.NDArray[Any]] = {
        "hashes": np.frombuffer(bytes(hashes), np.uint8).reshape(-1, HASH_BYTES),
        "sizes": np.array(sizes, np.int64),
    }
    info = {
        "documents_read": counts.documents_read + counts.oversized,
        "bytes_read": counts.bytes_read,
        "bad_lines": counts.bad_lines,
        "too_short": dropped["too_short"],
        "too_long": dropped["too_long"] + counts.oversized,
    }
    save_record(job.work.read(job.task.index), arrays, info)


def _judged(job: TaskJob) -> Iterator[tuple[str, int, int]]:
    """Cleaned text, verdict and document id of each document, read again and compared with the record."""
    recorded = load_record(job.work.read(job.task.index)).arrays["hashes"]
    doc, _ = hash_halves(recorded)
    verdicts = np.load(job.work.merged, mmap_mode="r")[job.first : job.first + len(recorded)]
    row = 0
    for text, digest in _documents(job, ReadCounts(), {"too_short": 0, "too_long": 0}):
        if row >= len(recorded) or digest != recorded[row].tobytes():
            raise _changed(job)
        yield text, int(verdicts[row]), int(doc[row])
        row += 1
    if row != len(recorded):
        raise _changed(job)


def _changed(job: TaskJob) -> UserError:
    names = ", ".join(piece.location for piece in job.task.pieces[:3])
    return UserError(f"an input changed while it was being read ({names}): run again when it is at rest")


def sample_step(job: TaskJob) -> None:
    """Record a task's documents that the vocabulary is trained on, normalized, and their characters.

    Raises:
        UserError: an input changed since it was first read.
    """
    statistics = CharacterStatistics()
    words: set[str] = set()
    texts: list[str] = []
    for text, verdict, _ in _judged(job):
        if verdict & SAMPLED:
            texts.append(normalized(text, job.lowercase))
            statistics.add(texts[-1], words)
    statistics.find_inner(words)
    record = {"texts": texts, "counts": statistics.counts, "inner": "".join(sorted(statistics.inner))}
    write_bytes(job.work.sample(job.task.index), json.dumps(record).encode())


def tokenize_step(job: TaskJob) -> None:
    """Tokenize a task's kept documents into its shards; record the shards and how often each token occurs.

    Raises:
        UserError: an input changed since it was first read, or the disk is full.
    """
    encoder, size, fingerprint, unknown = _encoder(str(job.work.tokenizer))
    outputs = {split: _ShardOutput(job, split, size, fingerprint) for split in ("train", "heldout")}
    without_tokens = 0
    for texts, verdicts, docs in _batches(job):
        for encoding, verdict, doc in zip(
            encoder.encode_batch_fast(texts, add_special_tokens=False), verdicts, docs, strict=True
        ):
            if not encoding.ids:
                without_tokens += 1
                continue
            outputs["heldout" if verdict & HELD_OUT else "train"].add(encoding.ids, doc)
    for output in outputs.values():
        output.flush()
    train, heldout = outputs["train"], outputs["heldout"]
    info = {
        "shards": [dataclasses.asdict(entry) for output in outputs.values() for entry in output.entries],
        "without_tokens": without_tokens,
        "unknown_tokens": int(train.token_counts[unknown] + heldout.token_counts[unknown]),
    }
    save_record(job.work.tokens(job.task.index), {"token_counts": train.token_counts}, info)


def _batches(job: TaskJob) -> Iterator[tuple[list[str], list[int], list[int]]]:
    texts: list[str] = []
    verdicts: list[int] = []
    docs: list[int] = []
    characters = 0
    for text, verdict, doc in _judged(job):
        if not verdict & KEPT:
            continue
        texts.append(text)
        verdicts.append(verdict)
        docs.append(doc)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield texts, verdicts, docs
            texts, verdicts, docs, characters = [], [], [], 0
    if texts:
        yield texts, verdicts, docs


@functools.lru_cache(maxsize=1)
def _encoder(path: str) -> tuple[Tokenizer, int, str, int]:
    tokenizer = Tokenizer.from_file(path)
    unknown = tokenizer.get_vocab(with_added_tokens=True)[UNK]
    return text_encoder(tokenizer), vocabulary_size(tokenizer), tokenizer_fingerprint(tokenizer), unknown


class _ShardOutput:
    """Collects one split's rows of a task and writes them as one or more shards."""

    def __init__(self, job: TaskJob, split: Any, vocab_size: int, fingerprint: str) -> None:
        self.entries: list[ShardEntry] = []
        self.token_counts = np.zeros(vocab_size, np.int64)
        self._job = job
        self._split = split
        self._vocab_size = vocab_size
        self._fingerprint = fingerprint
        self._rows: list[npt.NDArray[np.uint32]] = []
        self._docs: list[int] = []
        self._tokens = 0

    def add(self, ids: list[int], doc: int) -> None:
        if self._rows and self._tokens + len(ids) > MAX_SHARD_TOKENS:
            self.flush()
        self._rows.append(np.array(ids, np.uint32))
        self._docs.append(doc)
        self._tokens += len(ids)

    def flush(self) -> None:
        if not self._rows:
            return
        name = f"{self._split}-{self._job.task.index:06d}-{len(self.entries):02d}.arrow"
        path: Path = self._job.work.shards / name
        write_shard(
            path,
            self._rows,
            np.array(self._docs, np.uint64),
            vocab_size=self._vocab_size,
            tokenizer_fingerprint=self._fingerprint,
            ids_type=self._job.ids_type,
        )
        self.token_counts += np.bincount(np.concatenate(self._rows), minlength=self._vocab_size)
        entry = ShardEntry(
            name=name,
            split=self._split,
            rows=len(self._rows),
            tokens=self._tokens,
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
        )
        self.entries.append(entry)
        self._rows, self._docs, self._tokens = [], [], 0
