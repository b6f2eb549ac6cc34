"""Batches: the rows at the places asked for, in their order, from each shard opened once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_scale.data.order import Order
from electra_scale.data.rows import PackedShard, SpecialTokens, gather

SPECIAL = SpecialTokens(pad=0, cls=2, sep=3, mask=4)


def make_shards(documents: list[list[int]], sequence_length: int) -> list[PackedShard]:
    """Shards of documents of the given lengths; the tokens are numbered through all of them."""
    shards = []
    first = 10
    for lengths in documents:
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.arange(first, first + offsets[-1]).astype(np.uint32)
        shards.append(PackedShard(ids, offsets, sequence_length, SPECIAL, "greedy", 4))
        first += int(offsets[-1])
    return shards


@settings(max_examples=100, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=6),
    sequence_length=st.integers(4, 24),
    positions=st.lists(st.integers(0, 10**6), max_size=30),
)
def test_each_place_gives_its_row(documents: list[list[int]], sequence_length: int, positions: list[int]) -> None:
    shards = make_shards(documents, sequence_length)
    order = Order(np.array([shard.rows for shard in shards]), "f", 1, 6, 3, 5)
    places = order.places(np.array(positions, dtype=np.int64))
    asked: list[int] = []

    def open_shard(number: int) -> PackedShard:
        asked.append(number)
        return shards[number]

    ids, segment = gather(places, open_shard, sequence_length)
    assert ids.shape == segment.shape == (len(positions), sequence_length)
    assert sorted(asked) == sorted(set(places.shard.tolist()))
    for index in range(len(positions)):
        row = shards[places.shard[index]].read(places.row[index : index + 1])
        np.testing.assert_array_equal(ids[index], row[0][0])
        np.testing.assert_array_equal(segment[index], row[1][0])


def test_an_epoch_holds_every_token_of_the_store_once() -> None:
    shards = make_shards([[5, 30, 7], [1], [40, 2, 2, 9]], 12)
    order = Order(np.array([shard.rows for shard in shards]), "f", 1, 4, 2, 3)
    ids, _ = gather(order.places(np.arange(order.samples)), shards.__getitem__, 12)
    assert sorted(ids[ids >= 10].tolist()) == list(range(10, 10 + 96))
