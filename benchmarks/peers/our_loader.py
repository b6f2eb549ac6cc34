"""This project's loader among its peers: the same calls as in the training loop, with default settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electra_scale.data.batch import Batch
from electra_scale.data.loader import Loader
from electra_scale.data.rows import gather
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import CacheConfig, DataConfig


class WithoutNoise(Loader):
    """Token ids and segments only, for comparison with loaders that make no masks."""

    def rows(self, positions: NDArray[np.int64], mask_share: float) -> Batch:
        places = self.order.places(positions)
        ids, segment = gather(places, self.split.open, self.config.sequence_length)
        self.split.rows_were_read(len(positions))
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(segment),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.bool),
            torch.zeros(0, dtype=torch.float64),
        )


def default_loader(config: DataConfig, batch: int, seed: int, noise: bool = True) -> Loader:
    """A loader of the train split; ``config`` has the recipe's defaults where a benchmark does not set them."""
    store = Store(config.store, config.cache)
    kind = Loader if noise else WithoutNoise
    return kind(Split(store, "train", special_tokens(store.tokenizer_dir), config), seed, batch)


def epochs_of(spec: dict[str, Any]) -> Callable[[int], Iterator[Tensor]]:
    """Batches of token ids of an epoch, read by ``workers`` threads. The order knows no end of an epoch, so an epoch
    is its whole batches; the rest comes in the first batch of the next."""
    config = DataConfig(
        store=spec["store"],
        sequence_length=spec["length"],
        prefetch_threads=spec["workers"],
        cache=CacheConfig(folder=spec["cache"]),
    )
    batch = spec["batch"]
    loader = default_loader(config, batch, spec["seed"], spec["noise"])
    steps = loader.samples // batch

    def epoch_of(epoch: int) -> Iterator[Tensor]:
        first = epoch * steps
        feed = loader.feed(first, first + steps, 0, batch, batch, config.mask_share)
        try:
            for step in range(first, first + steps):
                yield feed.take(step)[0].ids
        finally:
            feed.close()

    return epoch_of
