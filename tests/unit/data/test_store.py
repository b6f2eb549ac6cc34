"""Reading a store: what is in it, and one line for what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import manifest_fingerprint, write_manifest
from data_pipeline.store.shard import open_shard
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import DataConfig

from .conftest import SPECIAL, read_shard_rows

CONFIG = DataConfig(sequence_length=24)


@pytest.fixture
def spoiled(store_path: Path, tmp_path: Path) -> Path:
    """A copy of the store, to be spoiled at will."""
    shutil.copytree(store_path, tmp_path / "copy", ignore=shutil.ignore_patterns(".build"))
    return tmp_path / "copy"


def rewrite(path: Path, shards: list[Any]) -> None:
    """A manifest that agrees with itself, whatever the files hold."""
    manifest = Store(path).manifest
    fingerprint = manifest_fingerprint(manifest.tokenizer.fingerprint, manifest.settings, shards)
    write_manifest(open_place(path), dataclasses.replace(manifest, shards=shards, fingerprint=fingerprint))


def test_special_tokens_are_the_tokenizers(store_path: Path) -> None:
    found = special_tokens(store_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(str(store_path / "tokenizer"))
    assert [tokenizer.convert_ids_to_tokens(int(token)) for token in found.ids()] == [
        "[PAD]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]


def test_a_tokenizer_without_a_mask_token_is_refused(spoiled: Path) -> None:
    path = spoiled / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    del content["model"]["vocab"]["[MASK]"]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[MASK]"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lacks \[MASK\]"):
        special_tokens(spoiled / "tokenizer")


def test_rows_of_a_split_follow_the_manifest(store_path: Path) -> None:
    store = Store(store_path)
    split = Split(store, "train", SPECIAL, CONFIG)
    assert len(split.rows) == len(store.manifest.split("train")) > 1
    for shard, rows in enumerate(split.rows):
        packed = split.open(shard)
        assert packed.rows == rows
        read_shard_rows(packed, np.array([rows - 1]))
        with pytest.raises(IndexError):
            read_shard_rows(packed, np.array([rows]))


def test_token_counts_are_those_of_the_train_split(store_path: Path) -> None:
    store = Store(store_path)
    ids, _ = store.documents("train", 10**9)
    expected = np.bincount(ids, minlength=store.manifest.tokenizer.vocab_size)
    np.testing.assert_array_equal(store.token_counts(), expected)


def test_documents_come_whole_and_in_order_up_to_the_amount_asked_for(store_path: Path) -> None:
    store = Store(store_path)
    everything, all_offsets = store.documents("train", 10**9)
    assert len(everything) == sum(entry.tokens for entry in store.manifest.split("train"))
    first = open_shard(store_path / store.manifest.split("train")[0].name)
    np.testing.assert_array_equal(everything[: len(first.ids)], first.ids)
    longest = int(np.diff(all_offsets).max())
    for wanted in (1, 100, len(first.ids), len(first.ids) + 1, len(everything) - 1):
        ids, offsets = store.documents("train", wanted)
        np.testing.assert_array_equal(ids, everything[: len(ids)])
        np.testing.assert_array_equal(offsets, all_offsets[: len(offsets)])
        assert offsets[-1] == len(ids)
        assert abs(len(ids) - wanted) <= longest


def test_a_split_without_documents_is_refused(spoiled: Path) -> None:
    rewrite(spoiled, Store(spoiled).manifest.split("train"))
    with pytest.raises(UserError, match="no documents in its heldout split"):
        Split(Store(spoiled), "heldout", SPECIAL, CONFIG)


def test_a_shard_that_does_not_hold_what_the_manifest_says_is_refused(spoiled: Path) -> None:
    shards = Store(spoiled).manifest.shards
    index = next(i for i, entry in enumerate(shards) if entry.split == "train")
    shards[index] = dataclasses.replace(shards[index], tokens=shards[index].tokens + 1)
    rewrite(spoiled, shards)
    with pytest.raises(UserError, match=rf"{shards[index].name}.*the manifest says"):
        Split(Store(spoiled), "train", SPECIAL, CONFIG).open(0)


def test_a_missing_shard_is_named(spoiled: Path) -> None:
    entry = Store(spoiled).manifest.split("train")[0]
    (spoiled / entry.name).unlink()
    with pytest.raises(UserError, match=rf"{entry.name} is missing"):
        Split(Store(spoiled), "train", SPECIAL, CONFIG).open(0)


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=str(folder)):
            Store(folder)
