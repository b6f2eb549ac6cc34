"""Reading ahead: threads and a store that fails change no batch, only when it arrives."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.place import Unavailable
from electra_scale.data.loader import Loader
from electra_scale.data.retry_budget import RetryBudget
from electra_scale.data.store import Store
from electra_scale.recipe.data import CacheConfig

from .conftest import GLOBAL_BATCH, STEPS, digest, store_loader


class Unsteady(FolderPlace):
    """A place that stops answering while ``gone`` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gone = False
        self.asked = 0

    def fetch(self, name: str, target: Path, most: int | None = None) -> None:
        self.asked += 1
        if self.gone:
            raise Unavailable(f"{self.url} does not answer (connection refused)")
        super().fetch(name, target)


def unsteady_loader(
    store_path: Path, tmp_path: Path, minutes: float, threads: int
) -> tuple[Loader, Unsteady, list[str]]:
    """A loader with a cache, the place that it fetches from, and the lines that it logs."""
    logged: list[str] = []
    store = Store(store_path, CacheConfig(str(tmp_path / "cache")))
    place = Unsteady(store_path)
    store.place = place
    return store_loader(store, threads, RetryBudget(minutes, logged.append)), place, logged


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_store_that_goes_and_comes_back_changes_nothing(
    threads: int, straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    loader, place, logged = unsteady_loader(store_path, tmp_path, 5.0, threads)
    place.gone = True
    timer = threading.Timer(1.5, lambda: setattr(place, "gone", False))
    timer.start()
    feed = loader.feed(0, STEPS, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15)
    found = [digest(feed.take(step)) for step in range(STEPS)]
    feed.close()
    timer.join()
    assert found == straight
    assert loader.fetched()[1] >= 1
    assert any("does not answer" in line and "attempt 1, giving up in" in line for line in logged)
    assert any("answers again" in line for line in logged)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_training_continues_from_the_cache_and_then_ends_with_the_reason(
    threads: int, straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    loader, place, logged = unsteady_loader(store_path, tmp_path, 1.0 / 60, threads)
    shards = loader.order.places(np.arange(STEPS * GLOBAL_BATCH)).shard
    first_need = {shard: int(np.flatnonzero(shards == shard)[0]) // GLOBAL_BATCH for shard in np.unique(shards)}
    last = max(first_need, key=lambda shard: first_need[shard])
    assert first_need[last] > 1
    for shard in first_need:
        if shard != last:
            loader.split.fetch(shard)
    place.gone = True
    feed = loader.feed(0, STEPS, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15)
    assert [digest(feed.take(step)) for step in range(first_need[last])] == straight[: first_need[last]]
    with pytest.raises(OneRankError, match=r"giving up after .*connection refused.*--resume auto"):
        feed.take(first_need[last])
    feed.close()
    assert any("training continues from the cache" in line for line in logged)


def test_every_batch_whose_shards_are_cached_is_given_while_the_store_is_gone(
    straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    loader, place, logged = unsteady_loader(store_path, tmp_path, 5.0, threads=1)
    for shard in range(len(loader.split.entries)):
        loader.split.fetch(shard)
    place.gone = True
    asked = place.asked
    feed = loader.feed(0, STEPS, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15)
    assert [digest(feed.take(step)) for step in range(STEPS)] == straight
    feed.close()
    assert place.asked == asked
    assert logged == []


@pytest.mark.parametrize("threads", [0, 2])
def test_a_missing_shard_ends_it_at_once(threads: int, store_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store_path, copy)
    store = Store(copy, CacheConfig(str(tmp_path / "cache")))
    for path in copy.glob("train-*.arrow"):
        path.unlink()
    feed = store_loader(store, threads, RetryBudget(60.0, lambda _: None)).feed(0, 5, 0, 16, 16, 0.15)
    with pytest.raises(UserError, match=r"train-.*\.arrow is missing"):
        feed.take(0)
    feed.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_waiting_ends_when_it_is_asked_to(threads: int, store_path: Path, tmp_path: Path) -> None:
    loader, place, _ = unsteady_loader(store_path, tmp_path, 5.0, threads)
    place.gone = True
    feed = loader.feed(0, STEPS, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15)
    with pytest.raises(OneRankError, match="the data of step 1 did not arrive in time"):
        feed.take(0, lambda: place.asked > 0)
    feed.close()


def test_threads_end_when_the_feed_is_closed(store_path: Path) -> None:
    before = threading.active_count()
    feed = store_loader(Store(store_path), threads=3).feed(0, 10**6, 0, 16, 16, 0.15)
    feed.take(0)
    feed.close()
    deadline = time.monotonic() + 20
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
