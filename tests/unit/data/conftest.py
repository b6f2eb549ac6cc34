"""A small finished store, and shards made of numbers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.data.retry_budget import RetryBudget
from electra_scale.data.rows import PackedShard, SpecialTokens, read_rows
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import DataConfig

SPECIAL = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
GLOBAL_BATCH = 16
STEPS = 50
_TEXT = """
river stone light garden winter letter morning window bridge harbour market silver captain story
"""
_WORDS = _TEXT.split()


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several shards in both splits, made by the pipeline."""
    folder = tmp_path_factory.mktemp("input")
    random = np.random.default_rng(0)
    texts = [f"Story {n} of {' '.join(random.choice(_WORDS, random.integers(5, 60)))}." for n in range(150)]
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build_store(
        BuildConfig(
            out=str(folder / "store"),
            sources=[SourceConfig(kind="jsonl", paths=[str(folder / "docs.jsonl")])],
            tokenizer=TokenizerConfig(vocab_size=150),
            held_out=0.2,
            task_bytes=8192,
            workers=1,
        )
    )
    return folder / "store"


def on_disk(folder: Path) -> int:
    """Bytes that the files of a folder take on disk, while other processes add and remove some."""
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            total += max(status.st_size, status.st_blocks * 512)
    return total


def read_shard_rows(shard: PackedShard, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (n, S) and segments (n, S) of rows (n,) of one shard."""
    return read_rows([shard], np.zeros(len(rows), dtype=np.int64), rows, shard.sequence_length)


class NumberSplit:
    """What a Loader needs of a split: shards of consecutive numbers, so that each token shows where it comes from."""

    def __init__(self, documents: list[list[int]], fingerprint: str, config: DataConfig) -> None:
        self.special = SPECIAL
        self.config = config
        self.store: Any = SimpleNamespace(manifest=SimpleNamespace(fingerprint=fingerprint), cache=None)
        self.shards: list[PackedShard] = []
        first = 10
        for lengths in documents:
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            ids = np.arange(first, first + offsets[-1]).astype(np.uint16)
            self.shards.append(PackedShard(ids, offsets, SPECIAL, config))
            first += int(offsets[-1])
        self.tokens = first - 10
        self.sources = ["main"] * len(self.shards)
        self.rows = np.array([shard.rows for shard in self.shards])

    def open(self, shard: int) -> PackedShard:
        return self.shards[shard]

    def rows_were_read(self, count: int) -> None:
        pass


def number_split(shards: int = 6, seed: int = 0, fingerprint: str = "f", **config: Any) -> NumberSplit:
    random = np.random.default_rng(seed)
    settings = {"sequence_length": 16, "packing_window": 5, "streams": 3, "shuffle_window": 5}
    documents = [random.integers(1, 30, 8).tolist() for _ in range(shards)]
    return NumberSplit(documents, fingerprint, DataConfig(**{**settings, **config}))


def make_loader(split: Any, seed: int = 3, global_batch: int = 8, **changes: Any) -> Loader:
    return Loader(split, seed, global_batch, **changes)


def store_loader(store: Store, threads: int = 0, budget: RetryBudget | None = None) -> Loader:
    """A loader of a store with global batches of ``GLOBAL_BATCH``."""
    config = DataConfig(
        sequence_length=32,
        packing_window=16,
        streams=4,
        shuffle_window=8,
        prefetch_threads=threads,
        prefetch_shards=2,
    )
    split = Split(store, "train", special_tokens(store.tokenizer_dir), config)
    return Loader(split, 3, GLOBAL_BATCH, budget=budget)


def digest(batches: list[Batch]) -> str:
    """SHA-256 of a global batch that ranks and micro-batches give in parts."""
    found = hashlib.sha256()
    for name in ("ids", "segment", "masked", "shown_as_mask", "uniform"):
        first = 0
        parts = []
        for batch in batches:
            value = getattr(batch, name).numpy()
            parts.append(value + first if name == "masked" else value)
            first += batch.ids.numel()
        found.update(np.concatenate(parts).tobytes())
    return found.hexdigest()


@pytest.fixture(scope="session")
def straight(store_path: Path) -> list[str]:
    """Digests of the global batches as one rank without threads gets them, one whole batch at a time."""
    loader = store_loader(Store(store_path))
    return [digest([loader.batch(step, 0, GLOBAL_BATCH, 0.15)]) for step in range(STEPS)]
