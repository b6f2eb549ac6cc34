"""The rows that are measured on: a fair sample of the whole split, the same for everybody."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from electra_scale.data.loader import open_loader
from electra_scale.data.spread import Spread
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.recipe import Recipe
from tests.unit.data.conftest import make_loader, number_split

ROWS = np.array([700, 0, 300, 20, 80, 900])
SOURCES = ["web", "web", "books", "letters", "web", "books"]


def spread(fingerprint: str = "f", seed: int = 0x5EED) -> Spread:
    return Spread(ROWS, SOURCES, fingerprint, seed)


@pytest.mark.parametrize("count", [1, 7, 64, 256, 1000, 2000])
def test_any_number_of_first_rows_has_every_source_and_shard_in_proportion(count: int) -> None:
    places = spread().places(np.arange(count))
    assert len(np.unique(places.sample)) == count
    found = Counter(SOURCES[shard] for shard in places.shard)
    for label in set(SOURCES):
        share = sum(ROWS[index] for index, source in enumerate(SOURCES) if source == label) / ROWS.sum()
        assert abs(found[label] - share * count) <= 2
    if count >= 64:
        # Within a source rows come from its shards as from a hat.
        of_shard = np.bincount(places.shard, minlength=len(ROWS))
        assert np.all(np.abs(of_shard - count * ROWS / ROWS.sum()) <= 4 * np.sqrt(count * ROWS / ROWS.sum()) + 1)


def test_all_rows_come_once_an_epoch() -> None:
    places = spread().places(np.arange(2 * ROWS.sum()))
    for epoch in (0, 1):
        assert np.array_equal(np.sort(places.sample[places.epoch == epoch]), np.arange(ROWS.sum()))
    first = np.cumsum(ROWS) - ROWS
    assert np.array_equal(places.sample, first[places.shard] + places.row)


def test_the_order_follows_from_manifest_and_seed_alone() -> None:
    positions = np.random.default_rng(0).permutation(500)
    one, same = spread(), spread()
    same.places(np.arange(3))
    assert np.array_equal(one.places(positions).sample, same.places(positions).sample)
    for other in (spread(fingerprint="g"), spread(seed=1)):
        assert not np.array_equal(one.places(positions).sample, other.places(positions).sample)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abcdef")), min_size=1, max_size=12),
    count=st.integers(1, 60),
)
def test_more_rows_begin_with_the_same(rows: list[tuple[int, str]], count: int) -> None:
    sizes, sources = np.array([size for size, _ in rows]), [source for _, source in rows]
    if sizes.sum() == 0:
        return
    few = Spread(sizes, sources, "f", 1).places(np.arange(min(count, sizes.sum()))).sample
    whole = Spread(sizes, sources, "f", 1).places(np.arange(sizes.sum())).sample
    assert np.array_equal(whole[: len(few)], few)
    assert np.array_equal(np.sort(whole), np.arange(sizes.sum()))


def test_the_noise_of_a_row_is_the_one_that_it_always_had() -> None:
    plain = make_loader(number_split(), shuffle=False)
    spread_out = make_loader(number_split(), shuffle=False, spread=True)
    position = np.array([9])
    sample = spread_out.order.places(position).sample
    one, other = spread_out.rows(position, 0.3), plain.rows(sample, 0.3)
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.masked, other.masked)
    assert np.array_equal(one.uniform, other.uniform)


@pytest.fixture(scope="module")
def three_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three sources, the first of which has the most text by far."""
    folder = tmp_path_factory.mktemp("sources")
    sources = []
    for label, documents in (("first", 400), ("se/cond", 60), ("third one", 40)):
        path = folder / f"{documents}.jsonl"
        texts = [f"Document {number} of the source {label} says {number * 7919} words." for number in range(documents)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        sources.append(SourceConfig(kind="jsonl", paths=[str(path)], label=label))
    build_store(
        BuildConfig(
            out=str(folder / "store"),
            sources=sources,
            tokenizer=TokenizerConfig(vocab_size=120),
            held_out=0.4,
            task_bytes=4096,
            workers=1,
        )
    )
    return folder / "store"


@pytest.mark.parametrize(("split", "training"), [("heldout", True), ("train", False)])
def test_the_first_rows_of_a_real_store_are_of_all_its_sources(three_sources: Path, split: str, training: bool) -> None:
    store = Store(three_sources)
    recipe = Recipe()
    recipe.data.sequence_length = 32
    found: list[Any] = []
    for seed, batch, ranks in ((0, 8, 1), (9, 64, 3)):
        recipe.seed, recipe.batch.global_batch = seed, batch
        loader = open_loader(recipe, store, split, special_tokens(store.tokenizer_dir), training=training)
        assert set(loader.sources(np.arange(30))) == {"first", "se/cond", "third one"}
        found.append([loader.rows(part, 0.3).ids.tolist() for part in np.array_split(np.arange(30), ranks)])
    assert found[0][0] == [row for part in found[1] for row in part]
