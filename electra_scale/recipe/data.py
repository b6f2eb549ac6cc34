"""The data section of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from data_pipeline.settings import too_small


@dataclass
class CacheConfig:
    """Shards of a store that is not a local folder are kept here; safe for all ranks of a node together."""

    folder: str | None = None
    """A folder on the node's own disk; unset, ``electra-scale-cache-UID`` in the system's temporary folder. Set, it is
    used for stores in folders too (a slow network file system)."""

    limit_gb: float = 50.0
    """Most space (10^9 bytes) that the folder takes; the shards that were used longest ago go first."""


@dataclass
class DataConfig:
    """Where samples come from and how they are masked."""

    store: str = "store"
    """A finished store (``electra-data build``): a folder, or ``s3://bucket/prefix``."""

    sequence_length: int = 128
    """Positions S of a sample."""

    mask_share: float = 0.15
    """Share of the non-special tokens that the generator predicts."""

    mask_token_share: float = 0.85
    """Share of those that it sees as [MASK]; the others keep their token."""

    streams: int = 16
    """Canonical streams that an epoch is cut into; part of the order, so fixed for a run. At least the nodes that the
    run may ever have, so that each fetches only its part; more streams mix more, and read from more shards at once."""

    shuffle_window: int = 16384
    """Rows of a stream that are shuffled together."""

    packing: Literal["greedy", "stream"] = "greedy"
    """``greedy``: documents of a window are ordered so that few are cut; ``stream``: they stay in the store's order.
    Either way rows are full, and what does not fit continues in the next row."""

    packing_window: int = 1024
    """Documents that greedy packing chooses from."""

    attend_across_documents: bool = False
    """Let attention cross from one document of a row into the next."""

    mixture: dict[str, float] = field(default_factory=dict)
    """Weight of each source label of the store; unset, the store's own mixture, or every row once an epoch."""

    prefetch_threads: int = 2
    """Threads that fetch shards and assemble batches ahead; 0 does all of it when it is needed."""

    prefetch_shards: int = 4
    """Shards that are fetched before they are needed."""

    give_up_minutes: float = 15.0
    """How long a store may fail to answer before the run ends; it trains on from what is there while it waits."""

    cache: CacheConfig = field(default_factory=CacheConfig)

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = too_small(
            "data",
            self,
            sequence_length=8,
            streams=1,
            shuffle_window=1,
            packing_window=1,
            prefetch_threads=0,
            prefetch_shards=0,
        )
        if not 0 < self.mask_share < 1:
            found.append(f"data.mask_share is {self.mask_share}; it must lie between 0 and 1")
        if not 0 <= self.mask_token_share <= 1:
            found.append(f"data.mask_token_share is {self.mask_token_share}; it must lie between 0 and 1")
        # Written so that NaN, which compares false, is refused too.
        if not self.give_up_minutes >= 0:
            found.append(f"data.give_up_minutes is {self.give_up_minutes}; it must be 0 or more")
        if not 0 < self.cache.limit_gb < math.inf:
            found.append(f"data.cache.limit_gb is {self.cache.limit_gb}; it must be a number above 0")
        for label, weight in self.mixture.items():
            if not 0 < weight < math.inf:
                found.append(f"data.mixture.{label} is {weight}; a weight must be a number above 0")
        return found
