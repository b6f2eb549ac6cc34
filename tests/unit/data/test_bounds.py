"""What nodes fetch, what a cache takes, what memory a loader needs, how full rows are."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from data_pipeline.places.atomic import sha256_of
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import (
    FileEntry,
    Manifest,
    ShardEntry,
    TokenizerEntry,
    manifest_fingerprint,
    write_manifest,
)
from data_pipeline.store.shard import write_shard
from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer
from electra_scale.data.loader import Loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import CacheConfig, DataConfig
from tests.support.fixtures.runs import ROOT

from .conftest import on_disk

VOCABULARY = {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(995))])}


def write_store(folder: Path, shards: int, documents: int, mean: float, seed: int = 0) -> Path:
    """A store of numbers; document lengths as skewed as those of web text."""
    folder.mkdir()
    tokenizer = save_tokenizer(folder, wordpiece_tokenizer(VOCABULARY, True))
    generator = np.random.default_rng(seed)
    entries = []
    for number in range(shards):
        lengths = np.maximum(1, generator.lognormal(np.log(mean) - 0.5, 1.0, documents).astype(int))
        flat = generator.integers(5, 1000, lengths.sum(), dtype=np.uint16)
        path = folder / f"train-{number:05d}.arrow"
        doc = np.arange(documents, dtype=np.uint64) + np.uint64(number * documents)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        write_shard(path, flat, offsets, doc, vocab_size=1000, tokenizer_fingerprint=tokenizer.fingerprint)
        size = path.stat().st_size
        entries.append(ShardEntry(path.name, "train", "main", documents, len(flat), size, sha256_of(path)))
    np.save(folder / "token_counts.npy", np.ones(1000, np.int64))
    counts = FileEntry("token_counts.npy", hashlib.sha256((folder / "token_counts.npy").read_bytes()).hexdigest())
    fingerprint = manifest_fingerprint(tokenizer.fingerprint, {}, entries)
    entry = TokenizerEntry(tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.files)
    write_manifest(open_place(folder), Manifest(2, fingerprint, entry, entries, {}, {}, counts))
    return folder


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("many") / "store", shards=400, documents=20, mean=300)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_node_fetches_its_share_of_an_epoch_within_its_limit(nodes: int, many_shards: Path, tmp_path: Path) -> None:
    size = sum(entry.bytes for entry in Store(many_shards).manifest.shards)
    limit = 2_000_000
    config = DataConfig(sequence_length=64, streams=16, shuffle_window=64, prefetch_threads=2, prefetch_shards=2)
    for node in range(nodes):
        store = Store(many_shards, CacheConfig(str(tmp_path / f"node-{node}"), limit / 1e9))
        assert store.cache is not None
        split = Split(store, "train", special_tokens(store.tokenizer_dir), config)
        loader = Loader(split, 1, 64)
        share = 64 // nodes
        steps = -(-loader.samples // 64)
        assert loader.working_set(nodes, 2) < limit < size
        feed = loader.feed(0, steps, node * share, share, share, 0.15)
        most = 0
        for step in range(steps):
            feed.take(step)
            # The threads fetch meanwhile, so this sees files half there too.
            most = max(most, on_disk(store.cache.folder))
        feed.close()
        assert size / nodes * 0.9 < store.cache.fetched.bytes < size / nodes * 1.1
        assert 0 < most <= limit


def test_rows_are_full_for_documents_of_realistic_lengths(many_shards: Path) -> None:
    store = Store(many_shards)
    special = special_tokens(store.tokenizer_dir)
    packings: tuple[Literal["greedy", "stream"], ...] = ("greedy", "stream")
    for packing in packings:
        config = DataConfig(sequence_length=128, packing=packing, streams=16, shuffle_window=64)
        loader = Loader(Split(store, "train", special, config), 1, 256)
        filled = [float((loader.batch(step, 0, 256, 0.15).segment >= 0).float().mean()) for step in range(8)]
        assert np.mean(filled) > 0.97, packing


def test_attention_may_cross_documents_where_the_recipe_says_so(many_shards: Path) -> None:
    store = Store(many_shards)
    special = special_tokens(store.tokenizer_dir)
    config = DataConfig(sequence_length=128, streams=4, shuffle_window=64)
    apart, across = (
        Loader(Split(store, "train", special, replace(config, attend_across_documents=across)), 1, 32)
        for across in (False, True)
    )
    one, other = apart.batch(0, 0, 32, 0.15), across.batch(0, 0, 32, 0.15)
    assert int(one.segment.max()) > 0
    assert set(other.segment.unique().tolist()) <= {-1, 0}
    np.testing.assert_array_equal(one.ids, other.ids)


_GROWTH = """
import sys
from electra_scale.data.loader import Loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import DataConfig

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

store = Store(sys.argv[1])
config = DataConfig(sequence_length=128, streams=16, shuffle_window=16384, prefetch_threads=2, prefetch_shards=2)
split = Split(store, "train", special_tokens(store.tokenizer_dir), config)
loader = Loader(split, 1, 1024)
steps = -(-loader.samples // 1024)
feed = loader.feed(0, steps, 0, 1024, 1024, 0.15)
for step in range(steps):
    feed.take(step)
    if step == 20:
        before = peak()
feed.close()
print((peak() - before) // 1_000_000)
"""


def test_memory_does_not_grow_with_the_store(tmp_path: Path) -> None:
    """Some 190 MB are read after the first steps; the peak hardly moves."""
    store = write_store(tmp_path / "store", shards=12, documents=12_000, mean=700, seed=1)
    size = sum(entry.bytes for entry in Store(store).manifest.shards)
    assert size > 180_000_000
    result = subprocess.run(
        [sys.executable, "-c", _GROWTH, str(store)],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 80
