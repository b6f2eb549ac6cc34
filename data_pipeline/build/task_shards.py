"""Writing a task's tokenized rows into shards, and reading them back from shards that are not final yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_pipeline.build.records import Work
from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sha256_of
from data_pipeline.places.open import local_copy
from data_pipeline.store.manifest import SPLITS, ShardEntry
from data_pipeline.store.shard import IdsType, ids_dtype, open_shard, write_shard
from data_pipeline.tokenize.roles import NOTHING

Split = Literal["train", "heldout"]
Rows = tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.uint64]]

# A whole compressed file is one task; its tokens are spread over shards of at most about this many.
MAX_SHARD_TOKENS = 1 << 26


@dataclasses.dataclass(frozen=True)
class ShardTokenizer:
    """What shards need to know of their tokenizer; ``unknown`` is the id of [UNK], or NOTHING."""

    json: bytes
    vocab_size: int
    fingerprint: str
    unknown: int


class TaskShards:
    """Collects one task's rows and writes them as one or more shards per split.

    ``token_counts`` (vocabulary,) int64 counts the tokens of the train split, ``unknown`` all unknown ones;
    ``unknown_example`` is set to a word that the tokenizer doesn't know, where there are many. ``name`` turns
    the file name of a shard into its name in the store's place.
    """

    def __init__(
        self,
        work: Work,
        task: int,
        source: str,
        ids_type: IdsType,
        tokenizer: ShardTokenizer,
        name: Callable[[str], str],
    ) -> None:
        self.token_counts = np.zeros(tokenizer.vocab_size, np.int64)
        self._work = work
        self._task = task
        self._source = source
        self._ids_type = ids_type
        self._dtype = ids_dtype(tokenizer.vocab_size, ids_type)
        self._tokenizer = tokenizer
        self._name = name
        self.unknown_example = ""
        self.unknown = 0
        self._entries: dict[str, list[ShardEntry]] = {split: [] for split in SPLITS}
        self._held: dict[str, list[Rows]] = {split: [] for split in SPLITS}
        self._tokens = dict.fromkeys(SPLITS, 0)

    def add(
        self, split: Split, flat: npt.NDArray[Any], lengths: npt.NDArray[np.int64], docs: npt.NDArray[np.uint64]
    ) -> None:
        """Add rows: ``flat`` their ids one after the other, ``lengths`` (rows,) tokens of each, ``docs`` (rows,) ids.

        Raises:
            UserError: an id is outside the vocabulary; the disk is full.
        """
        if not len(lengths):
            return
        if len(flat) and int(flat.max()) >= len(self.token_counts):
            raise UserError(
                f"token id {int(flat.max())} is outside the vocabulary of {len(self.token_counts):,}: "
                "the tokenizer's model and its vocabulary disagree; use another tokenizer"
            )
        counts = np.bincount(flat, minlength=len(self.token_counts))
        if self._tokenizer.unknown != NOTHING:
            self.unknown += int(counts[self._tokenizer.unknown])
        if split == "train":
            self.token_counts += counts
        flat = flat.astype(self._dtype, copy=False)
        ends = np.cumsum(lengths)
        row = token = 0
        while row < len(lengths):
            room = MAX_SHARD_TOKENS - self._tokens[split]
            end = int(np.searchsorted(ends, token + room, side="right"))
            if end <= row and self._tokens[split]:
                self._flush(split)
                continue
            # A row that is larger than a shard gets one for itself.
            end = max(end, row + 1)
            until = int(ends[end - 1])
            self._held[split].append((flat[token:until], lengths[row:end], docs[row:end]))
            self._tokens[split] += until - token
            row, token = end, until

    def finish(self) -> None:
        """Write what is left."""
        for split in SPLITS:
            self._flush(split)

    def info(self) -> dict[str, Any]:
        """The shards' entries, the count of unknown tokens and an example, for a record."""
        entries = [dataclasses.asdict(entry) for split in SPLITS for entry in self._entries[split]]
        return {"shards": entries, "unknown_tokens": self.unknown, "unknown_example": self.unknown_example}

    def _flush(self, split: Any) -> None:
        if not self._held[split]:
            return
        flat, lengths, docs = (np.concatenate(parts) for parts in zip(*self._held[split], strict=True))
        self._held[split], self._tokens[split] = [], 0
        name = f"{split}-{self._task:06d}-{len(self._entries[split]):02d}.arrow"
        with self._work.written(self._name(name)) as path:
            write_shard(
                path,
                flat,
                np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
                docs,
                vocab_size=self._tokenizer.vocab_size,
                tokenizer_fingerprint=self._tokenizer.fingerprint,
                ids_type=self._ids_type,
            )
            entry = ShardEntry(
                name=name,
                split=split,
                source=self._source,
                rows=len(docs),
                tokens=len(flat),
                bytes=path.stat().st_size,
                sha256=sha256_of(path),
            )
        self._entries[split].append(entry)


def read_rows(
    work: Work, names: Sequence[str], staying: npt.NDArray[np.bool_], fingerprint: str
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]:
    """The rows of one split's early shards, in order, each with its part of ``staying`` (rows of all of them,).

    Raises:
        UserError: a shard is missing or damaged.
    """
    row = 0
    for name in names:
        with local_copy(work.place, work.early_shard(name)) as path:
            shard = open_shard(path, fingerprint)
            stays = staying[row : row + len(shard.doc)]
            row += len(shard.doc)
            if len(stays) != len(shard.doc):
                break
            # A copy: the memory map ends with the file, which is deleted.
            yield np.array(shard.ids), np.diff(shard.offsets), np.array(shard.doc), stays
    if row != len(staying):
        raise UserError(
            f"{work.place.url}/{work.prefix} is damaged ({', '.join(names)} have {row} rows, not {len(staying)}): "
            "delete it and build again"
        )
