"""This project's loader as a contestant: the training loop's own calls, with default settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electra_scale.data.loader import Batch, Loader
from electra_scale.data.rows import gather
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import CacheConfig, DataConfig


class WithoutNoise(Loader):
    """Token ids and segments only, for comparison with loaders that know nothing of masks."""

    def rows(self, positions: NDArray[np.int64], mask_share: float) -> Batch:
        places = self.order.places(positions)
        ids, segment = gather(places, self.split.open, self.split.sequence_length)
        self.split.rows_were_read(len(positions))
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(segment),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.bool),
            torch.zeros(0, dtype=torch.float64),
        )


def open_loader(
    url: str, cache: CacheConfig, batch: int, length: int, seed: int, noise: bool = True, streams: int | None = None
) -> Loader:
    """A loader of the train split as a recipe with default settings makes it, ``streams`` apart."""
    data = DataConfig()
    store = Store(url, cache)
    split = Split(
        store,
        "train",
        length,
        special_tokens(store.tokenizer_dir),
        data.packing,
        data.packing_window,
        data.attend_across_documents,
    )
    kind = Loader if noise else WithoutNoise
    return kind(
        split,
        seed=seed,
        global_batch=batch,
        mask_token_share=data.mask_token_share,
        streams=streams or data.streams,
        window=data.shuffle_window,
    )


def epochs_of(spec: dict[str, Any]) -> Callable[[int], Iterator[Tensor]]:
    """Batches of token ids of an epoch, read by ``workers`` threads. The order knows no end of an epoch, so an epoch
    is its whole batches; the rest comes in the first batch of the next."""
    data = DataConfig()
    loader = open_loader(
        spec["store"], CacheConfig(folder=spec["cache"]), spec["batch"], spec["length"], spec["seed"], spec["noise"]
    )
    steps = loader.samples // spec["batch"]

    def epoch_of(epoch: int) -> Iterator[Tensor]:
        first = epoch * steps
        reader = loader.run(
            first,
            first + steps,
            0,
            spec["batch"],
            spec["batch"],
            data.mask_share,
            threads=spec["workers"],
            ahead=data.prefetch_shards,
        )
        try:
            for step in range(first, first + steps):
                yield reader.take(step)[0].ids
        finally:
            reader.close()

    return epoch_of
