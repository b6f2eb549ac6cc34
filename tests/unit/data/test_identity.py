"""The same global batches on any number of ranks and threads, from a folder or a cache, across a stop at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_scale.data.loader import Loader
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import CacheConfig

from .conftest import GLOBAL_BATCH, STEPS, digest, store_loader


def run_ranks(make: Callable[[], Loader], ranks: int, first: int, last: int) -> Iterator[str]:
    """Digests of the global batches of some steps; every rank is a loader of its own."""
    share = GLOBAL_BATCH // ranks
    micro = max(1, share // 2)
    feeds = [make().feed(first, last, rank * share, share, micro, 0.15) for rank in range(ranks)]
    try:
        for step in range(first, last):
            yield digest([batch for feed in feeds for batch in feed.take(step)])
    finally:
        for feed in feeds:
            feed.close()


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_global_batches_are_the_same_for_any_ranks_and_threads(
    ranks: int, threads: int, straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    assert len(set(straight)) == STEPS
    assert list(run_ranks(lambda: store_loader(Store(store_path), threads), ranks, 0, STEPS)) == straight
    # Through a cache that holds three shards or so, all ranks together.
    largest = max(entry.bytes for entry in Store(store_path).manifest.shards)
    cache = CacheConfig(str(tmp_path / "cache"), 3 * (largest + 4096) / 1e9)
    assert list(run_ranks(lambda: store_loader(Store(store_path, cache), threads), ranks, 0, STEPS)) == straight


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.integers(0, STEPS - 1), ranks=st.sampled_from([1, 2, 4]), threads=st.sampled_from([0, 1, 3]))
def test_a_stop_at_any_step_changes_no_batch(
    stop: int, ranks: int, threads: int, straight: list[str], store_path: Path
) -> None:
    state = store_loader(Store(store_path)).state(stop).to_dict()
    first = store_loader(Store(store_path)).check(state)
    assert list(run_ranks(lambda: store_loader(Store(store_path), threads), ranks, first, STEPS)) == straight[stop:]


def test_an_epoch_through_ranks_and_threads_holds_every_sample_once(store_path: Path) -> None:
    store = Store(store_path)
    samples = store_loader(store).samples
    steps = -(-samples // GLOBAL_BATCH)
    rows = []
    for rank in range(2):
        feed = store_loader(store, threads=3).feed(0, steps, 8 * rank, 8, 8, 0.15)
        for step in range(steps):
            (batch,) = feed.take(step)
            positions = step * GLOBAL_BATCH + 8 * rank + np.arange(8)
            rows += [row.tolist() for row in batch.ids.numpy()[positions < samples]]
        feed.close()
    special = special_tokens(store.tokenizer_dir).ids()
    ordinary = np.array(rows)[~np.isin(np.array(rows), special)]
    expected, _ = store.documents("train", 10**9)
    assert len(rows) == samples
    np.testing.assert_array_equal(np.sort(ordinary), np.sort(expected))


def test_step_a_million_is_found_without_the_steps_before(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in rows read: times would differ from machine to machine."""
    for first in (0, 10**6):
        loader = store_loader(Store(store_path))
        read: list[int] = []
        monkeypatch.setattr(loader.split, "rows_were_read", read.append)
        feed = loader.feed(first, first + 3, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15)
        for step in range(first, first + 3):
            feed.take(step)
        assert read == [GLOBAL_BATCH] * 3
