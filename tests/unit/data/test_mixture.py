"""Mixtures: exact shares, each source through its own epochs, a pure function of the position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data_pipeline.errors import UserError
from electra_scale.data.mixture import Mixture
from electra_scale.data.order import Places
from electra_scale.recipe.data import DataConfig

ROWS = [40, 7, 0, 300, 25, 90, 11]
SOURCES = ["news", "wiki", "wiki", "web", "news", "web", "wiki"]
WEIGHTS = {"news": 0.5, "wiki": 0.2, "web": 0.3}


def make(
    weights: dict[str, float] | None = None,
    rows: Any = ROWS,
    sources: Any = SOURCES,
    seed: int = 1,
    global_batch: int = 8,
    streams: int = 4,
    window: int = 16,
    fingerprint: str = "store",
    shuffle: bool = True,
) -> Mixture:
    config = DataConfig(streams=streams, shuffle_window=window)
    weights = WEIGHTS if weights is None else weights
    return Mixture(np.array(rows), sources, weights, fingerprint, seed, global_batch, config, shuffle)


def labels(places: Places) -> NDArray[np.str_]:
    return np.array(SOURCES)[places.shard]


def block_positions(mixture: Mixture) -> int:
    """Positions of a pattern block of all streams."""
    return mixture.pattern * mixture.streams


@settings(max_examples=25, deadline=None)
@given(
    weights=st.fixed_dictionaries({}, optional={label: st.floats(0.01, 10) for label in WEIGHTS}).filter(bool),
    global_batch=st.sampled_from([1, 6, 8, 12]),
    streams=st.integers(1, 12),
    block=st.sampled_from([0, 1, 10**9]),
    shuffle=st.booleans(),
)
def test_each_source_has_its_share_in_every_block(
    weights: dict[str, float], global_batch: int, streams: int, block: int, shuffle: bool
) -> None:
    mixture = make(weights, global_batch=global_batch, streams=streams, shuffle=shuffle)
    size = block_positions(mixture)
    drawn = labels(mixture.places(np.arange(block * size, (block + 1) * size)))
    assert size == len(drawn)
    for label in WEIGHTS:
        share = (drawn == label).mean() if label in weights else 0.0
        assert abs(share - weights.get(label, 0.0) / sum(weights.values())) < 1 / 1024
        assert ((drawn == label).sum() > 0) == (label in weights)


def test_shares_nearly_hold_in_every_few_batches_too() -> None:
    mixture = make(global_batch=128, streams=64)
    drawn = labels(mixture.places(np.arange(128 * 200))).reshape(20, -1)
    for label, weight in WEIGHTS.items():
        assert np.abs((drawn == label).mean(1) - weight).max() < 0.08
    # And no batch is of one source alone, as it would be if all streams followed one pattern.
    each = drawn.reshape(200, 128)
    assert all(len(np.unique(batch)) == 3 for batch in each)


@settings(max_examples=15, deadline=None)
@given(
    global_batch=st.sampled_from([1, 6, 8]),
    streams=st.integers(1, 8),
    window=st.integers(1, 50),
    seed=st.integers(0, 2**63),
    shuffle=st.booleans(),
)
def test_every_sample_of_a_source_comes_once_in_each_of_its_epochs(
    global_batch: int, streams: int, window: int, seed: int, shuffle: bool
) -> None:
    mixture = make(global_batch=global_batch, streams=streams, window=window, seed=seed, shuffle=shuffle)
    places = mixture.places(np.arange(3 * block_positions(mixture)))
    first = np.cumsum(ROWS) - ROWS
    assert (places.sample == first[places.shard] + places.row).all()
    for label in WEIGHTS:
        own = [sample for shard, source in enumerate(SOURCES) if source == label for sample in _samples(shard)]
        of_label = labels(places) == label
        last = places.epoch[of_label].max()
        assert last >= 1
        # The last epoch is unfinished; the ones before it are complete.
        for epoch in range(last):
            assert sorted(places.sample[of_label & (places.epoch == epoch)].tolist()) == own
        unfinished = places.sample[of_label & (places.epoch == last)]
        assert len(np.unique(unfinished)) == len(unfinished)


def _samples(shard: int) -> range:
    first = sum(ROWS[:shard])
    return range(first, first + ROWS[shard])


@settings(max_examples=25, deadline=None)
@given(
    start=st.integers(0, 10**12),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    asked_before=st.lists(st.integers(0, 10**12), max_size=5),
    seed=st.integers(0, 1000),
)
def test_places_do_not_depend_on_how_they_are_asked_for(
    start: int, cuts: list[int], asked_before: list[int], seed: int
) -> None:
    positions = np.arange(start, start + 300)
    whole = make(seed=seed).places(positions)
    mixture = make(seed=seed)
    mixture.places(np.array(asked_before, dtype=np.int64))
    parts = [mixture.places(part) for part in reversed(np.split(positions, sorted(cuts)))][::-1]
    for name, expected in vars(whole).items():
        np.testing.assert_array_equal(np.concatenate([vars(part)[name] for part in parts]), expected)


def test_a_source_s_rows_do_not_depend_on_the_other_sources() -> None:
    """The running draws of a source are its own order, whatever stands between them."""
    both, alone = make({"news": 1, "web": 1}), make({"news": 1})
    drawn = both.places(np.arange(2 * block_positions(both)))
    expected = alone.places(np.arange(block_positions(alone)))
    for stream in range(4):
        mine = labels(drawn) == "news"
        of_stream = np.arange(len(drawn)) % 8 // 2 == stream
        np.testing.assert_array_equal(
            drawn.sample[mine & of_stream], expected.sample[np.arange(len(expected)) % 8 // 2 == stream]
        )


@pytest.mark.parametrize("change", [{"seed": 2}, {"fingerprint": "other"}, {"streams": 2}, {"window": 3}])
def test_seed_fingerprint_and_settings_change_the_order(change: dict[str, Any]) -> None:
    positions = np.arange(500)
    assert (make().places(positions).sample == make().places(positions).sample).all()
    assert (make().places(positions).sample != make(**change).places(positions).sample).any()


def test_pattern_blocks_and_streams_draw_in_different_orders() -> None:
    mixture = make(global_batch=4)
    drawn = labels(mixture.places(np.arange(2 * block_positions(mixture)))).reshape(2, mixture.pattern, 4)
    assert len({tuple(drawn[block, :, stream]) for block in range(2) for stream in range(4)}) == 8


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_with_n_nodes_each_fetches_about_one_nth_of_a_source(nodes: int) -> None:
    """A source that is passed once: each node has touched about its share of the source's shards."""
    rows = np.full(1280, 100)
    sources = ["a", "b"] * 640
    mixture = make({"a": 1, "b": 1}, rows, sources, global_batch=128, streams=64, window=64)
    positions = np.arange(mixture.samples)
    node = positions % 128 // (128 // nodes)
    shard = mixture.places(positions).shard
    for which in range(nodes):
        assert abs(len(np.unique(shard[node == which])) * nodes / 1280 - 1) < 0.15


def test_a_weight_too_small_for_the_pattern_still_draws() -> None:
    mixture = make({"news": 1.0, "wiki": 1e-9, "web": 1e-9})
    assert mixture.draws.tolist() == [mixture.pattern - 2, 1, 1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"news": 0.5, "books": 0.5}, "data.mixture names books.*news, web, wiki"),
        ({"news": -1.0}, "data.mixture gives news the weight -1.0: make it positive"),
        ({"news": 0.0}, "positive"),
        ({"news": float("nan")}, "positive"),
        ({}, "empty"),
    ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(weights)
