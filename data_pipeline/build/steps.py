"""The steps that run once per task. Each leaves one finished record.

With a trained vocabulary: read, sample, tokenize. With a given one: read_and_tokenize, then publish for the tasks
whose shards aren't final yet.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.build.kept_text import damaged, read_texts, write_texts
from data_pipeline.build.records import Work
from data_pipeline.build.task_shards import ShardTokenizer, Split, TaskShards, read_rows
from data_pipeline.build.unknown import EXAMPLE_SHARE
from data_pipeline.clean.cleaner import Cleaner, is_blank
from data_pipeline.clean.identity import HASH_BYTES, content_hash, hash_halves, held_out_mask
from data_pipeline.config import CleanConfig, SourceConfig, TokenizerConfig
from data_pipeline.deduplicate.choose import KEPT, SAMPLED
from data_pipeline.errors import UserError
from data_pipeline.read.documents import read_task
from data_pipeline.read.tasks import ReadCounts, Task
from data_pipeline.store.shard import IdsType
from data_pipeline.tokenize.description import described
from data_pipeline.tokenize.encoding import FAST, TextEncoder, open_encoder, unknown_word
from data_pipeline.tokenize.vocabulary import TrainingStatistics, normalized

_BATCH_BYTES = 1 << 20
_TRIED_CHARACTERS = 1000
_SPACE = 0x20
# In place of a count of tokens: the document was not tokenized, its task holds the same text before it.
_REPEATED = -1


@dataclasses.dataclass(frozen=True)
class TaskJob:
    """All that a worker needs for one task. ``losing``: its documents may still be dropped by the serial step."""

    work: Work
    task: Task
    source: SourceConfig
    clean: CleanConfig
    tokenizer: TokenizerConfig
    ids_type: IdsType
    held_out: float
    encoder: str = ""

    @property
    def losing(self) -> bool:
        return self.clean.deduplicate or self.clean.near_duplicates is not None


class Document(NamedTuple):
    """A cleaned document: its text in UTF-8, how many characters that is, and its content hash."""

    data: bytes
    characters: int
    digest: bytes


class _Reader:
    """Reads and cleans a task's documents, and collects what is recorded of each."""

    def __init__(self, job: TaskJob) -> None:
        self._job = job
        self._counts = ReadCounts()
        self._cleaner = Cleaner(job.clean)
        self._dropped = dict.fromkeys(self._cleaner.reasons, 0)
        self._keys = _near_keys(job.clean.near_duplicates)
        self._hashes = bytearray()
        self._sizes: list[tuple[int, int, int]] = []
        self._bands: list[npt.NDArray[np.uint64]] = []
        # For each reason to drop a document a file with one, and how many documents each file has.
        self._examples: dict[str, str] = {}
        self._rows: collections.Counter[str] = collections.Counter()

    def documents(self) -> Iterator[Document]:
        """The documents that stay, cleaned."""
        clean = self._cleaner.clean
        for raw in read_task(self._job.task, self._job.source, self._counts):
            data, characters, reason = clean(raw)
            if reason is None:
                yield Document(data, characters, content_hash(data))
            else:
                self._dropped[reason] += 1
                if not is_blank(data):
                    self._examples.setdefault(reason, self._counts.location)
                else:
                    self._counts.leave_out("empty", "a record that has only blanks" if raw else "a record of no length")

    def note(self, document: Document) -> None:
        """Record a document."""
        data, characters, digest = document
        self._hashes += digest
        self._rows[self._counts.location] += 1
        if self._job.clean.whitespace:
            # Cleaning leaves single spaces and line feeds, nothing else as low, and counting is quicker than splitting.
            words = int(np.count_nonzero(np.frombuffer(data, np.uint8) <= _SPACE)) + 1
        else:
            words = len(data.decode("utf-8").split())
        self._sizes.append((len(data), words, characters))
        if self._keys is not None:
            self._bands.append(self._keys(data.decode("utf-8")))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        sizes = np.array(self._sizes, np.int64).reshape(-1, 3)
        rows = len(sizes)
        return {
            "hashes": np.frombuffer(bytes(self._hashes), np.uint8).reshape(rows, HASH_BYTES),
            "sizes": sizes[:, 0],
            "words": sizes[:, 1],
            "characters": sizes[:, 2],
            "bands": np.stack(self._bands) if self._bands else np.zeros((rows, 0), np.uint64),
        }

    def info(self) -> dict[str, Any]:
        counts = self._counts
        dropped = {**self._dropped, "too_long": self._dropped.get("too_long", 0) + counts.oversized}
        return {
            "documents": len(self._sizes),
            "counts": {
                "documents_read": counts.documents_read + counts.oversized,
                "bytes_read": counts.bytes_read,
                "bad_lines": counts.bad_lines,
                **dropped,
                "skipped": counts.skipped,
            },
            "records": counts.records,
            "left_out": [[*key, count, example] for key, (count, example) in counts.left_out.items()],
            "examples": self._examples,
            "rows": list(self._rows.items()),
        }


@functools.lru_cache(maxsize=1)
def _near_keys(similarity: float | None) -> Callable[[str], npt.NDArray[np.uint64]] | None:
    if similarity is None:
        return None
    # Needs an extra, and most builds keep near duplicates.
    from data_pipeline.deduplicate.near_duplicates import Signatures

    return Signatures(similarity).keys


def read_step(job: TaskJob) -> None:
    """Read and clean a task's documents; keep their text in a folder; record hashes, sizes and counts.

    Raises:
        UserError: an input can't be read.
    """
    work, task = job.work, job.task.index
    reader = _Reader(job)

    def texts() -> Iterator[bytes]:
        for document in reader.documents():
            reader.note(document)
            yield document.data

    if _kept_text(job) is None:
        collections.deque(texts(), maxlen=0)
    else:
        with work.written(work.text(task)) as path:
            write_texts(path, texts())
    work.put_record(work.read(task), reader.arrays(), reader.info())


def _kept_text(job: TaskJob) -> Path | None:
    """Where the cleaned text of a task is kept; None in an object store, where it would be sent to and fro."""
    return job.work.place.local(job.work.text(job.task.index))


def _cleaned(job: TaskJob) -> Iterator[tuple[bytes, bytes]]:
    """UTF-8 and content hash of a task's cleaned documents, from what the first pass kept or else read again."""
    kept = _kept_text(job)
    if kept is not None and kept.exists():
        for data in read_texts(kept):
            yield data, content_hash(data)
    else:
        for document in _Reader(job).documents():
            yield document.data, document.digest


def _decided(job: TaskJob) -> Iterator[tuple[bytes, int, bytes]]:
    """UTF-8, decision and hash of each cleaned document, compared with the record of the first pass."""
    recorded = job.work.load_record(job.work.read(job.task.index), ["hashes"]).arrays["hashes"]
    decisions = _decisions(job)
    row = 0
    for data, digest in _cleaned(job):
        if row >= len(recorded) or digest != recorded[row].tobytes():
            raise _changed(job)
        yield data, int(decisions[row]), digest
        row += 1
    if row != len(recorded):
        raise _changed(job)


def _decisions(job: TaskJob) -> npt.NDArray[np.uint8]:
    return job.work.load_record(job.work.decisions(job.task.index)).arrays["verdicts"]


def _changed(job: TaskJob) -> UserError:
    kept = _kept_text(job)
    if kept is not None and kept.exists():
        return damaged(kept)
    names = ", ".join(piece.location for piece in job.task.pieces[:3])
    return UserError(f"an input changed while it was being read ({names}): run again when nothing writes to it")


def some_texts(job: TaskJob, count: int) -> list[str]:
    """The beginnings of the first ``count`` cleaned documents of a task, to try an encoder on."""
    return [data.decode("utf-8", "replace")[:_TRIED_CHARACTERS] for data, _ in itertools.islice(_cleaned(job), count)]


def sample_step(job: TaskJob) -> None:
    """Record a task's documents that the vocabulary is trained on, normalized, and their characters.

    Raises:
        UserError: an input changed since it was first read.
    """
    statistics = TrainingStatistics()
    words: set[str] = set()
    texts: list[str] = []
    for data, decision, _ in _decided(job):
        if decision & SAMPLED:
            text = data.decode("utf-8")
            if job.tokenizer.kind == "bpe":
                texts.append(statistics.add_as_it_is(text))
            else:
                texts.append(statistics.add(normalized(text, job.tokenizer.lowers), words))
    statistics.find_inner(words)
    job.work.put_json(job.work.sample(job.task.index), {"texts": texts, **statistics.record()})


def tokenize_step(job: TaskJob) -> None:
    """Tokenize a task's kept documents into its shards; record the shards and how often each token occurs.

    Raises:
        UserError: an input changed since it was first read, or the disk is full.
    """
    kept = ((data, digest) for data, decision, digest in _decided(job) if decision & KEPT)
    shards, lengths = _tokenize(job, kept, job.work.final_shard)
    info = {**shards.info(), "without_tokens": int((lengths == 0).sum())}
    job.work.put_record(job.work.tokens(job.task.index), {"token_counts": shards.token_counts}, info)
    text = _kept_text(job)
    if text is not None:
        # Text goes as shards come, so that together they need little more space than the store.
        text.unlink(missing_ok=True)


def read_and_tokenize_step(job: TaskJob) -> None:
    """Read, clean and tokenize a task's documents into shards at once; record both.

    Raises:
        UserError: an input can't be read, or the disk is full.
    """
    reader = _Reader(job)
    repeated: list[bool] = []
    seen: set[bytes] = set()

    def documents() -> Iterator[tuple[bytes, bytes]]:
        for document in reader.documents():
            reader.note(document)
            again = job.clean.deduplicate and document.digest in seen
            repeated.append(again)
            seen.add(document.digest)
            if not again:
                yield document.data, document.digest

    work = job.work
    shards, tokenized = _tokenize(job, documents(), work.early_shard if job.losing else work.final_shard)
    lengths = np.full(len(repeated), _REPEATED, np.int64)
    lengths[~np.array(repeated, np.bool_)] = tokenized
    arrays = {**reader.arrays(), "lengths": lengths, "token_counts": shards.token_counts}
    work.put_record(work.read(job.task.index), arrays, {**reader.info(), **shards.info()})


def publish_step(job: TaskJob) -> None:
    """Bring a task's early shards to their final place without the rows of dropped documents.

    Raises:
        UserError: a shard is damaged, or the disk is full.
    """
    work = job.work
    record = work.load_record(work.read(job.task.index), ["hashes", "lengths"])
    tokenizer = _tokenizer(work)
    rows = record.arrays["lengths"] > 0
    _, keys = hash_halves(record.arrays["hashes"])
    aside = held_out_mask(keys, job.held_out)
    kept = (_decisions(job) & KEPT) != 0
    shards = TaskShards(job.work, job.task.index, job.source.label, job.ids_type, tokenizer, work.final_shard)
    splits: tuple[tuple[Split, npt.NDArray[np.bool_]], ...] = (("train", rows & ~aside), ("heldout", rows & aside))
    for split, chosen in splits:
        staying = kept[chosen]
        names = [entry["name"] for entry in record.info["shards"] if entry["split"] == split]
        for flat, lengths, docs, stays in read_rows(work, names, staying, tokenizer.fingerprint):
            shards.add(split, flat[np.repeat(stays, lengths)], lengths[stays], docs[stays])
    shards.finish()
    work.put_record(
        work.tokens(job.task.index), {"token_counts": shards.token_counts}, {**shards.info(), "without_tokens": 0}
    )
    if not work.in_place:
        # In a bucket, an equal build on another machine may still need them.
        for entry in record.info["shards"]:
            work.place.delete(work.early_shard(entry["name"]))


@functools.lru_cache(maxsize=2)
def _tokenizer(work: Work) -> ShardTokenizer:
    data = work.place.read(work.tokenizer)
    tokenizer = described(data)
    return ShardTokenizer(data, tokenizer.size, tokenizer.fingerprint, tokenizer.unknown)


@functools.lru_cache(maxsize=2)
def encoder(work: Work, name: str) -> TextEncoder:
    """The engine ``name`` for the tokenizer of a build, opened once in every process; raises as open_encoder."""
    return open_encoder(_tokenizer(work).json, name)


def open_step(job: TaskJob) -> None:
    """Open the quick engine, where there is one for this tokenizer: it takes as long as a task."""
    with contextlib.suppress(UserError):
        encoder(job.work, FAST)


def _tokenize(
    job: TaskJob, documents: Iterator[tuple[bytes, bytes]], name: Callable[[str], str]
) -> tuple[TaskShards, npt.NDArray[np.int64]]:
    """Write documents into a task's shards; also (documents,) how many tokens each has."""
    engine = encoder(job.work, job.encoder)
    unknown = _tokenizer(job.work).unknown
    shards = TaskShards(job.work, job.task.index, job.source.label, job.ids_type, _tokenizer(job.work), name)
    counted = [np.zeros(0, np.int64)]
    example = b""
    for texts, digests in _batches(documents):
        flat, offsets = engine.encode(texts)
        lengths = np.diff(offsets)
        counted.append(lengths)
        if not example and (places := np.flatnonzero(flat == unknown)).size:
            example = texts[int(np.searchsorted(offsets, places[0], side="right")) - 1]
        docs, keys = hash_halves(np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES))
        aside = held_out_mask(keys, job.held_out)
        splits: tuple[tuple[Split, npt.NDArray[np.bool_]], ...] = (("train", ~aside), ("heldout", aside))
        for split, chosen in splits:
            rows = chosen & (lengths > 0)
            if rows.all():
                shards.add(split, flat, lengths, docs)
            elif rows.any():
                shards.add(split, flat[np.repeat(rows, lengths)], lengths[rows], docs[rows])
    shards.finish()
    lengths = np.concatenate(counted)
    if shards.unknown > EXAMPLE_SHARE * int(lengths.sum()):
        # By an engine that takes longer to open than a task takes, so only where it may be shown.
        shards.unknown_example = unknown_word(_tokenizer(job.work).json, example.decode("utf-8"))
    return shards, lengths


def _batches(documents: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[list[bytes], bytes]]:
    texts: list[bytes] = []
    digests = bytearray()
    size = 0
    for text, digest in documents:
        texts.append(text)
        digests += digest
        size += len(text)
        if size >= _BATCH_BYTES:
            yield texts, bytes(digests)
            texts, digests, size = [], bytearray(), 0
    if texts:
        yield texts, bytes(digests)
