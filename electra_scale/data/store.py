"""Reading a store: the one place where training touches shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from data_pipeline.errors import UserError
from data_pipeline.manifest import Manifest, load_manifest
from data_pipeline.shard import Shard, open_shard
from electra_scale.data.rows import SpecialTokens, read_row, row_count, stream_starts


class Store:
    """A finished store, opened for reading; shards are memory-mapped when first used."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest: Manifest = load_manifest(self.path)
        self.tokenizer_dir = self.path / "tokenizer"

    def split(self, name: str, sequence_length: int, special: SpecialTokens) -> Split:
        """The rows of one split; raises UserError if it has none."""
        return Split(self, name, sequence_length, special)

    def token_counts(self) -> NDArray[np.int64]:
        """How often each token (V,) occurs in the train split."""
        return np.load(self.path / self.manifest.token_counts.name)

    def documents(self, split: str, most_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first documents of a split, up to about ``most_tokens``: flat ids (N,) and offsets (documents + 1)."""
        ids: list[NDArray[np.int64]] = []
        lengths: list[NDArray[np.int64]] = []
        left = most_tokens
        for entry in self.manifest.split(split):
            if left <= 0:
                break
            shard = open_shard(self.path / entry.name)
            documents = max(1, int(np.searchsorted(shard.offsets, left, side="right")) - 1)
            end = int(shard.offsets[documents]) if documents < len(shard.offsets) else int(shard.offsets[-1])
            ids.append(np.asarray(shard.ids[:end], dtype=np.int64))
            lengths.append(np.diff(shard.offsets[: documents + 1]))
            if documents < len(shard.offsets) - 1:
                break
            left -= end
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]) if lengths else np.zeros(1)
        return np.concatenate(ids) if ids else np.zeros(0, np.int64), offsets.astype(np.int64)


class Split:
    """The rows of the shards of one split, numbered shard by shard in manifest order."""

    def __init__(self, store: Store, name: str, sequence_length: int, special: SpecialTokens) -> None:
        self.store = store
        self.entries = [entry for entry in store.manifest.split(name) if entry.tokens > 0]
        self.sequence_length = sequence_length
        self.special = special
        self.rows = np.array([row_count(e.rows, e.tokens, sequence_length) for e in self.entries], dtype=np.int64)
        if not self.entries:
            raise UserError(f"store {store.path} has no documents in its {name} split; build it with more text")
        self._open: dict[int, tuple[Shard, NDArray[np.int64]]] = {}

    def read(self, shard: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids (S,) and segments (S,) of a row."""
        if shard not in self._open:
            entry = self.entries[shard]
            opened = open_shard(self.store.path / entry.name, self.store.manifest.tokenizer.fingerprint)
            if len(opened.doc) != entry.rows or int(opened.offsets[-1]) != entry.tokens:
                raise UserError(
                    f"shard {entry.name} of {self.store.path} holds {len(opened.doc)} documents and "
                    f"{int(opened.offsets[-1])} tokens, the manifest says {entry.rows} and {entry.tokens}; "
                    "run electra-data verify and build the store again"
                )
            self._open[shard] = (opened, stream_starts(opened.offsets))
        opened, starts = self._open[shard]
        return read_row(opened.ids, opened.offsets, starts, row, self.sequence_length, self.special)


def special_tokens(tokenizer_dir: Path) -> SpecialTokens:
    """Ids of the special tokens; raises UserError if the tokenizer lacks one."""
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_dir))
    found = {
        "pad": tokenizer.pad_token_id,
        "cls": tokenizer.cls_token_id,
        "sep": tokenizer.sep_token_id,
        "mask": tokenizer.mask_token_id,
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise UserError(
            f"tokenizer {tokenizer_dir} has no {', '.join(missing)} token; build the store with one that has"
        )
    return SpecialTokens(**found)
