"""Batches: the rows at places of a run, put together from the shards that hold them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from electra_scale.data.order import Places
from electra_scale.data.rows import PackedShard, read_rows


def gather(
    places: Places, open_shard: Callable[[int], PackedShard], sequence_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (n, S) and segments (n, S), -1 where padded, of the rows at ``places`` (n,), in their order.

    ``open_shard`` is asked once for each shard that occurs, by its number in the store, in the order of the places.
    """
    numbers, first, shard_of = np.unique(places.shard, return_index=True, return_inverse=True)
    opened = {int(numbers[index]): open_shard(int(numbers[index])) for index in np.argsort(first)}
    return read_rows([opened[number] for number in numbers.tolist()], shard_of, places.row, sequence_length)
