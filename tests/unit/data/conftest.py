"""A small finished store, and shards made of numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from electra_scale.data.loader import Loader
from electra_scale.data.rows import PackedShard, Packing, SpecialTokens

SPECIAL = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
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


class NumberSplit:
    """What a Loader needs of a split: shards of consecutive numbers, so that each token tells where it comes from."""

    def __init__(
        self,
        documents: list[list[int]],
        sequence_length: int = 16,
        fingerprint: str = "f",
        packing: Packing = "greedy",
        packing_window: int = 5,
        attend_across: bool = False,
    ) -> None:
        self.sequence_length = sequence_length
        self.special = SPECIAL
        self.packing = packing
        self.packing_window = packing_window
        self.attend_across = attend_across
        self.store: Any = SimpleNamespace(manifest=SimpleNamespace(fingerprint=fingerprint), cache=None)
        self.shards: list[PackedShard] = []
        first = 10
        for lengths in documents:
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            ids = np.arange(first, first + offsets[-1]).astype(np.uint16)
            self.shards.append(
                PackedShard(ids, offsets, sequence_length, SPECIAL, packing, packing_window, attend_across)
            )
            first += int(offsets[-1])
        self.tokens = first - 10
        self.sources = ["main"] * len(self.shards)
        self.rows = np.array([shard.rows for shard in self.shards])

    def open(self, shard: int) -> PackedShard:
        return self.shards[shard]

    def rows_were_read(self, count: int) -> None:
        pass


def number_split(shards: int = 6, seed: int = 0, **changes: Any) -> NumberSplit:
    random = np.random.default_rng(seed)
    return NumberSplit([random.integers(1, 30, 8).tolist() for _ in range(shards)], **changes)


def make_loader(split: Any, **changes: Any) -> Loader:
    settings = {"seed": 3, "global_batch": 8, "mask_token_share": 0.85, "streams": 3, "window": 5}
    return Loader(split, **{**settings, **changes})
