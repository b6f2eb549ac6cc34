"""Order: each row once an epoch, a pure function of fingerprint, settings, seed and position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_scale.data.order import Order, Place

shard_sizes = st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(any)
FACTS: dict[str, Any] = {"fingerprint": "store", "seed": 1, "streams": 4, "window": 16}


def make(rows: list[int], **changes: Any) -> Order:
    return Order(np.array(rows), **{**FACTS, **changes})


def epoch(order: Order, number: int = 0) -> list[Place]:
    return [order.place(number * order.samples + i) for i in range(order.samples)]


def samples(order: Order, number: int = 0) -> list[int]:
    return [place.sample for place in epoch(order, number)]


@settings(max_examples=150, deadline=None)
@given(
    rows=shard_sizes,
    streams=st.integers(1, 25),
    window=st.integers(1, 100),
    number=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_an_epoch_holds_every_sample_exactly_once(
    rows: list[int], streams: int, window: int, number: int, shuffle: bool
) -> None:
    order = make(rows, streams=streams, window=window, shuffle=shuffle)
    places = epoch(order, number)
    assert sorted(place.sample for place in places) == list(range(sum(rows)))
    first = np.concatenate([[0], np.cumsum(rows)])
    for place in places:
        assert place.epoch == number
        assert 0 <= place.row < rows[place.shard]
        assert place.sample == first[place.shard] + place.row


@settings(max_examples=60, deadline=None)
@given(rows=shard_sizes, streams=st.integers(1, 8), window=st.integers(1, 20), seed=st.integers(0, 1000))
def test_a_position_does_not_depend_on_what_was_asked_before(
    rows: list[int], streams: int, window: int, seed: int
) -> None:
    order = make(rows, streams=streams, window=window)
    straight = [order.place(position) for position in range(3 * order.samples)]
    for position in np.random.default_rng(seed).integers(0, 3 * order.samples, 20):
        fresh = make(rows, streams=streams, window=window)
        assert order.place(int(position)) == fresh.place(int(position)) == straight[position]


def test_epochs_differ() -> None:
    order = make([40, 25, 60, 3])
    orders = [samples(order, number) for number in range(4)]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])


@pytest.mark.parametrize("change", [{"seed": 2}, {"fingerprint": "other"}, {"streams": 3}, {"window": 15}])
def test_seed_fingerprint_and_settings_change_the_order(change: dict[str, Any]) -> None:
    rows = [40, 25, 60, 3]
    assert samples(make(rows)) == samples(make(rows))
    assert samples(make(rows)) != samples(make(rows, **change))


def test_an_unshuffled_order_is_the_same_in_every_epoch_and_for_every_seed() -> None:
    rows = [7, 3, 9]
    order = make(rows, shuffle=False)
    assert samples(order, 0) == samples(order, 5) == samples(make(rows, shuffle=False, seed=99, window=2))
    assert samples(make(rows, shuffle=False, streams=1)) == list(range(19))


def test_streams_take_turns() -> None:
    """Three shards in three streams: the first positions go round them, and the longest is left over at the end."""
    order = make([2, 4, 2], streams=3, shuffle=False)
    assert [(place.shard, place.row) for place in epoch(order)] == [
        *((0, 0), (1, 0), (2, 0)),
        *((0, 1), (1, 1), (2, 1)),
        *((1, 2), (1, 3)),
    ]


def test_a_stream_reads_its_shards_one_after_the_other() -> None:
    """With windows of one row nothing is shuffled but the shards, so no shard is left and come back to."""
    order = make([5] * 12, streams=3, window=1)
    seen: dict[int, list[int]] = {}
    for turn, place in enumerate(epoch(order)):
        seen.setdefault(turn % 3, []).append(place.shard)
    for shards in seen.values():
        assert [shards[i : i + 5] for i in range(0, 20, 5)] == [[shard] * 5 for shard in shards[::5]]
    assert samples(order) != list(range(60))


def test_rows_stay_inside_their_window() -> None:
    """A bound on what has to be at hand: position i of a stream comes from window i // window."""
    order = make([1000], streams=1, window=64)
    drawn = samples(order)
    assert all(sample // 64 == i // 64 for i, sample in enumerate(drawn))
    assert sum(sample == i for i, sample in enumerate(drawn)) < 100


def test_windows_and_streams_are_shuffled_differently() -> None:
    window = 32
    order = make([10 * window, 10 * window], streams=2, window=window)
    found = set()
    for stream in range(2):
        rows = [place.row for place in epoch(order)[stream::2]]
        found |= {tuple(row % window for row in rows[i : i + window]) for i in range(0, len(rows), window)}
    assert len(found) == 20


def test_shuffling_has_no_favourite_places() -> None:
    """Over many epochs each sample stands at each place of its window about equally often."""
    order = make([8], streams=1, window=8)
    counts = np.zeros((8, 8))
    for number in range(2000):
        for i, sample in enumerate(samples(order, number)):
            counts[i, sample] += 1
    # 49 degrees of freedom: 100 is far beyond chance.
    assert ((counts - 250) ** 2 / 250).sum() < 100


def test_a_late_position_is_found_without_the_ones_before_it() -> None:
    order = make([10_000] * 50, window=4096)
    place = order.place(10**9)
    assert place.epoch == 2000
    assert 0 <= place.row < 10_000
