"""The same global batches on any number of ranks and threads, from a folder or a cache, across a stop at any step."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import OneRankError, UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.place import Unavailable
from electra_scale.data.loader import Batch, Loader
from electra_scale.data.patience import Patience
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import CacheConfig

GLOBAL_BATCH = 16
STEPS = 50


def make_loader(store: Store, patience: Patience | None = None) -> Loader:
    split = Split(store, "train", 32, special_tokens(store.tokenizer_dir), packing_window=16)
    return Loader(split, 3, GLOBAL_BATCH, 0.85, streams=4, window=8, patience=patience)


def digest(batches: list[Batch]) -> str:
    """Of a global batch that ranks and micro-batches give in parts."""
    found = hashlib.sha256()
    for name in ("ids", "segment", "masked", "shown_as_mask", "uniform"):
        first = 0
        parts = []
        for batch in batches:
            value = getattr(batch, name).numpy()
            parts.append(value + first if name == "masked" else value)
            first += batch.ids.numel()
        found.update(np.concatenate(parts).tobytes())
    return found.hexdigest()


def run_ranks(make: Callable[[], Loader], ranks: int, threads: int, first: int, last: int) -> Iterator[str]:
    """Digests of the global batches of some steps; every rank is a loader of its own."""
    share = GLOBAL_BATCH // ranks
    micro = max(1, share // 2)
    feeds = [make().run(first, last, rank * share, share, micro, 0.15, threads, 2) for rank in range(ranks)]
    try:
        for step in range(first, last):
            yield digest([batch for feed in feeds for batch in feed.take(step)])
    finally:
        for feed in feeds:
            feed.close()


@pytest.fixture(scope="module")
def straight(store_path: Path) -> list[str]:
    """Digests of the global batches as one rank without threads gets them, one whole batch at a time."""
    loader = make_loader(Store(store_path))
    return [digest([loader.batch(step, 0, GLOBAL_BATCH, 0.15)]) for step in range(STEPS)]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_global_batches_are_the_same_for_any_ranks_and_threads(
    ranks: int, threads: int, straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    assert len(set(straight)) == STEPS
    assert list(run_ranks(lambda: make_loader(Store(store_path)), ranks, threads, 0, STEPS)) == straight
    # Through a cache that holds three shards or so, all ranks together.
    largest = max(entry.bytes for entry in Store(store_path).manifest.shards)
    cache = CacheConfig(str(tmp_path / "cache"), 3 * (largest + 4096) / 1e9)
    assert list(run_ranks(lambda: make_loader(Store(store_path, cache)), ranks, threads, 0, STEPS)) == straight


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.integers(0, STEPS - 1), ranks=st.sampled_from([1, 2, 4]), threads=st.sampled_from([0, 1, 3]))
def test_a_stop_at_any_step_changes_no_batch(
    stop: int, ranks: int, threads: int, straight: list[str], store_path: Path
) -> None:
    state = make_loader(Store(store_path)).state(stop).to_dict()
    first = make_loader(Store(store_path)).check(state)
    assert list(run_ranks(lambda: make_loader(Store(store_path)), ranks, threads, first, STEPS)) == straight[stop:]


def test_an_epoch_through_ranks_and_threads_holds_every_sample_once(store_path: Path) -> None:
    store = Store(store_path)
    samples = make_loader(store).samples
    steps = -(-samples // GLOBAL_BATCH)
    rows = []
    for rank in range(2):
        feed = make_loader(store).run(0, steps, 8 * rank, 8, 8, 0.15, 3, 2)
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
    """Counted in shards opened and rows read, since time is no test's matter."""
    for first in (0, 10**6):
        loader = make_loader(Store(store_path))
        read: list[int] = []
        monkeypatch.setattr(loader.split, "rows_were_read", read.append)
        feed = loader.run(first, first + 3, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15, 0, 0)
        for step in range(first, first + 3):
            feed.take(step)
        assert read == [GLOBAL_BATCH] * 3


class Unsteady(FolderPlace):
    """A place that can be taken away."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gone = False
        self.asked = 0

    def fetch(self, name: str, target: Path) -> None:
        self.asked += 1
        if self.gone:
            raise Unavailable(f"{self.url} does not answer (connection refused)")
        super().fetch(name, target)


def unsteady_loader(store_path: Path, tmp_path: Path, minutes: float) -> tuple[Loader, Unsteady, list[str]]:
    said: list[str] = []
    store = Store(store_path, CacheConfig(str(tmp_path / "cache")))
    place = Unsteady(store_path)
    store.place = place
    return make_loader(store, Patience(minutes, said.append)), place, said


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_store_that_goes_and_comes_back_changes_nothing(
    threads: int, straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    loader, place, said = unsteady_loader(store_path, tmp_path, 5.0)
    place.gone = True
    timer = threading.Timer(1.5, lambda: setattr(place, "gone", False))
    timer.start()
    feed = loader.run(0, STEPS, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15, threads, 2)
    found = [digest(feed.take(step)) for step in range(STEPS)]
    feed.close()
    timer.join()
    assert found == straight
    assert loader.fetched()[1] >= 1
    assert any("does not answer" in line and "try 1, giving up in" in line for line in said)
    assert any("answers again" in line for line in said)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_training_goes_on_from_what_is_there_and_then_ends_with_the_reason(
    threads: int, straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    loader, place, said = unsteady_loader(store_path, tmp_path, 1.0 / 60)
    shards = loader.order.places(np.arange(STEPS * GLOBAL_BATCH)).shard
    first_need = {shard: int(np.flatnonzero(shards == shard)[0]) // GLOBAL_BATCH for shard in np.unique(shards)}
    last = max(first_need, key=lambda shard: first_need[shard])
    assert first_need[last] > 1
    for shard in first_need:
        if shard != last:
            loader.split.fetch(shard)
    place.gone = True
    feed = loader.run(0, STEPS, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15, threads, 2)
    assert [digest(feed.take(step)) for step in range(first_need[last])] == straight[: first_need[last]]
    with pytest.raises(OneRankError, match=r"giving up after .*connection refused.*--resume auto"):
        feed.take(first_need[last])
    feed.close()
    assert any("training goes on from the cache" in line for line in said)


def test_every_batch_whose_shards_are_there_is_given_while_the_store_is_gone(
    straight: list[str], store_path: Path, tmp_path: Path
) -> None:
    loader, place, said = unsteady_loader(store_path, tmp_path, 5.0)
    for shard in range(len(loader.split.entries)):
        loader.split.fetch(shard)
    place.gone = True
    asked = place.asked
    feed = loader.run(0, STEPS, 0, GLOBAL_BATCH, GLOBAL_BATCH, 0.15, 1, 2)
    assert [digest(feed.take(step)) for step in range(STEPS)] == straight
    feed.close()
    assert place.asked == asked
    assert said == []


@pytest.mark.parametrize("threads", [0, 2])
def test_a_missing_shard_ends_it_at_once(threads: int, store_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store_path, copy)
    store = Store(copy, CacheConfig(str(tmp_path / "cache")))
    for path in copy.glob("train-*.arrow"):
        path.unlink()
    feed = make_loader(store, Patience(60.0, lambda _: None)).run(0, 5, 0, 16, 16, 0.15, threads, 2)
    with pytest.raises(UserError, match=r"train-.*\.arrow is missing"):
        feed.take(0)
    feed.close()


def test_threads_end_when_they_are_told_to(store_path: Path) -> None:
    before = threading.active_count()
    feed = make_loader(Store(store_path)).run(0, 10**6, 0, 16, 16, 0.15, 3, 2)
    feed.take(0)
    feed.close()
    deadline = time.monotonic() + 20
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
