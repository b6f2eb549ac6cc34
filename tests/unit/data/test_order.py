"""Order: each row once an epoch, a pure function of fingerprint, settings, seed and position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from electra_scale.data.order import Order, Places, stream_count
from electra_scale.recipe.data import DataConfig

shard_sizes = st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(any)
batches = st.integers(1, 40)
streams_wanted = st.integers(1, 25)
windows = st.integers(1, 100)
seeds = st.integers(0, 2**63)


def make(
    rows: Any,
    seed: int = 1,
    global_batch: int = 8,
    streams: int = 4,
    window: int = 16,
    fingerprint: str = "store",
    shuffle: bool = True,
) -> Order:
    config = DataConfig(streams=streams, shuffle_window=window)
    return Order(np.array(rows), fingerprint, seed, global_batch, config, shuffle)


def epoch(order: Order, number: int = 0) -> Places:
    return order.places(np.arange(number * order.samples, (number + 1) * order.samples))


def samples(order: Order, number: int = 0) -> list[int]:
    return epoch(order, number).sample.tolist()


def same(left: Places, right: Places) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(vars(left).values(), vars(right).values(), strict=True))


def fetched(order: Order, sizes: NDArray[np.int64], nodes: int, number: int) -> list[float]:
    """Share of the store's bytes that each node fetches in an epoch, when each reads its slice of every batch."""
    positions = np.arange(number * order.samples, (number + 1) * order.samples)
    node = positions % order.global_batch // (order.global_batch // nodes)
    shard = order.places(positions).shard
    return [float(sizes[np.unique(shard[node == which])].sum() / sizes.sum()) for which in range(nodes)]


@settings(max_examples=200, deadline=None)
@given(
    rows=shard_sizes,
    global_batch=batches,
    streams=streams_wanted,
    window=windows,
    seed=seeds,
    number=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_an_epoch_holds_every_sample_exactly_once(
    rows: list[int], global_batch: int, streams: int, window: int, seed: int, number: int, shuffle: bool
) -> None:
    order = make(rows, global_batch=global_batch, streams=streams, window=window, seed=seed, shuffle=shuffle)
    assert order.samples == sum(rows)
    places = epoch(order, number)
    assert sorted(places.sample.tolist()) == list(range(sum(rows)))
    first = np.cumsum(rows) - rows
    assert (places.epoch == number).all()
    assert (places.row >= 0).all()
    assert (places.row < np.array(rows)[places.shard]).all()
    assert (places.sample == first[places.shard] + places.row).all()


@settings(max_examples=100, deadline=None)
@given(
    rows=shard_sizes,
    global_batch=batches,
    streams=streams_wanted,
    window=windows,
    seed=seeds,
    start=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    asked_before=st.lists(st.integers(0, 10**15), max_size=5),
)
def test_places_do_not_depend_on_how_they_are_asked_for(
    rows: list[int],
    global_batch: int,
    streams: int,
    window: int,
    seed: int,
    start: int,
    cuts: list[int],
    asked_before: list[int],
) -> None:
    facts = {"global_batch": global_batch, "streams": streams, "window": window, "seed": seed}
    positions = np.arange(start, start + 200)
    whole = make(rows, **facts).places(positions)
    order = make(rows, **facts)
    order.places(np.array(asked_before, dtype=np.int64))
    parts = [order.places(part) for part in reversed(np.split(positions, sorted(cuts)))][::-1]
    joined = Places(*(np.concatenate([vars(part)[name] for part in parts]) for name in vars(whole)))
    assert same(joined, whole)
    one = int(positions[seed % 200])
    alone = order.places(np.array([one]))
    assert [part.tolist() for part in vars(alone).values()] == [[p[one - start]] for p in vars(whole).values()]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_out_each_batch(ranks: int) -> None:
    order = make([40, 25, 60, 3])
    each = order.global_batch // ranks
    for step in range(40):
        parts = [
            order.places(np.arange(step * 8 + rank * each, step * 8 + (rank + 1) * each)).sample.tolist()
            for rank in range(ranks)
        ]
        assert [sample for part in parts for sample in part] == order.places(
            np.arange(step * 8, step * 8 + 8)
        ).sample.tolist()


def test_epochs_differ() -> None:
    order = make([40, 25, 60, 3])
    orders = [samples(order, number) for number in range(4)]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"fingerprint": "other"}, {"streams": 2}, {"window": 15}, {"global_batch": 12}]
)
def test_seed_fingerprint_and_settings_change_the_order(change: dict[str, Any]) -> None:
    rows = [40, 25, 60, 3]
    assert samples(make(rows)) == samples(make(rows))
    assert samples(make(rows)) != samples(make(rows, **change))


def test_the_order_does_not_change_between_versions() -> None:
    """A run that is resumed with another version of the program or of numpy continues with the same rows."""
    assert samples(make([5, 3, 9], window=4), 2) == [14, 12, 6, 5, 0, 2, 10, 11, 15, 13, 7, 16, 1, 3, 8, 9, 4]


def test_an_unshuffled_order_is_the_store_in_every_epoch_and_for_every_seed() -> None:
    for number in (0, 5):
        assert samples(make([7, 0, 3, 9], shuffle=False, seed=99), number) == list(range(19))


@pytest.mark.parametrize(
    ("global_batch", "wanted", "streams"), [(128, 64, 64), (96, 64, 48), (8, 64, 8), (13, 5, 1), (100, 33, 25)]
)
def test_streams_divide_the_batch(global_batch: int, wanted: int, streams: int) -> None:
    assert stream_count(global_batch, wanted) == make([5], global_batch=global_batch, streams=wanted).streams == streams


def test_each_slot_of_the_batch_reads_its_own_piece_of_the_line() -> None:
    """With one shard the line is the shard: four streams of 20 rows, two slots each, and windows of 8 rows in them."""
    order = make([83], window=8)
    drawn = np.array(samples(order))
    for stream in range(4):
        for window, steps in enumerate((range(8), range(8, 16), range(16, 20))):
            positions = [step // 2 * 8 + stream * 2 + step % 2 for step in steps]
            first = stream * 20 + window * 8
            assert sorted(drawn[positions]) == list(range(first, first + len(steps)))
    assert sorted(drawn[80:]) == [80, 81, 82]


def test_a_slot_keeps_its_stream_in_every_epoch() -> None:
    """83 is not a multiple of 8, so later epochs start inside a batch."""
    order = make([83])
    for number in range(6):
        positions = np.arange(number * 83, number * 83 + 80)
        drawn = order.places(positions).sample
        assert (drawn // 20 == positions % 8 // 2).all()


def test_windows_and_streams_are_shuffled_differently() -> None:
    window = 32
    order = make([20 * window], streams=2, global_batch=2, window=window)
    drawn = np.array(samples(order)) % window
    found = {tuple(part) for stream in range(2) for part in drawn[stream::2].reshape(10, window).tolist()}
    assert len(found) == 20


def test_shuffling_has_no_favourite_places() -> None:
    """Over many epochs each sample stands at each place of its window about equally often."""
    order = make([8], streams=1, global_batch=1, window=8)
    drawn = order.places(np.arange(8 * 4000)).sample.reshape(4000, 8)
    for place in range(8):
        assert stats.chisquare(np.bincount(drawn[:, place], minlength=8)).pvalue > 1e-5


def test_shards_take_every_place_of_the_line() -> None:
    order = make([1] * 6, streams=1, global_batch=1, window=1)
    drawn = order.places(np.arange(6 * 3000)).shard.reshape(3000, 6)
    for place in range(6):
        assert stats.chisquare(np.bincount(drawn[:, place], minlength=6)).pvalue > 1e-5


def test_an_epoch_looks_shuffled() -> None:
    order = make([500] * 60, global_batch=32, streams=16, window=512)
    first, second = np.array(samples(order, 0)), np.array(samples(order, 1))
    for left, right in (
        (first, np.arange(order.samples)),
        (first, second),
        (first[:-1], first[1:]),
        (first, np.array(samples(make([500] * 60, global_batch=32, streams=16, window=512, seed=2)))),
    ):
        # Rows of a shard stay near each other, so it is 60 shards, not 30,000 rows, that chance plays with.
        assert abs(float(stats.spearmanr(left, right).statistic)) < 0.45
    within = first[:-32] // 500 == first[32:] // 500
    apart = (first[32:] - first[:-32])[within]
    assert abs((apart > 0).mean() - 0.5) < 0.02
    assert (np.abs(apart) == 1).mean() < 0.02


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
@pytest.mark.parametrize("equal", [True, False])
def test_with_n_nodes_each_fetches_about_one_nth_of_the_bytes(nodes: int, equal: bool) -> None:
    random = np.random.default_rng(3)
    sizes = np.full(640, 100) if equal else random.integers(20, 180, 640)
    order = make(sizes, global_batch=128, streams=64, window=64)
    for number in (0, 1, 4):
        for share in fetched(order, sizes, nodes, number):
            assert abs(share * nodes - 1) < 0.1


def test_a_stretch_of_the_run_touches_few_shards() -> None:
    """A window lies in at most two shards of its size, and a stretch in at most two windows of each stream."""
    order = make([256] * 1000, global_batch=64, streams=16, window=256)
    for start in (0, 64 * 1000, 64 * 3333, order.samples + 64 * 50):
        assert len(np.unique(order.places(np.arange(start, start + 64 * 8)).shard)) <= 3 * 16


def test_a_late_position_is_found_without_the_ones_before_it() -> None:
    """A run's millionth step, 10**12 positions in, asks for one layout, as its first does."""
    order = make([10_000] * 50, window=4096)
    positions = 10**12 + np.arange(8)
    places = order.places(positions)
    assert places.epoch.tolist() == (positions // 500_000).tolist()
    assert order._line.cache_info().misses == 1
    assert same(places, make([10_000] * 50, window=4096).places(positions))


def test_a_long_run_keeps_nothing_but_a_few_layouts() -> None:
    order = make([3, 4], global_batch=2, window=2)
    order.places(np.arange(7 * 1000))
    assert order._line.cache_info().currsize <= 4


@pytest.mark.parametrize("change", [{"global_batch": 0}, {"streams": 0}, {"window": 0}, {"rows": [0, 0]}])
def test_an_order_of_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        make(**{"rows": [3], **change})
