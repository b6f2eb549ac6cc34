"""A manifest makes a store, and nothing in it can lead out of the store."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import Manifest, ShardEntry, load_manifest, manifest_fingerprint, write_manifest


def test_a_manifest_is_read_back_as_written(store: Path, tmp_path: Path) -> None:
    manifest = load_manifest(open_place(store))
    again = tmp_path / "again"
    again.mkdir()
    write_manifest(open_place(again), manifest)
    assert load_manifest(open_place(again)) == manifest
    assert (again / "manifest.json").read_bytes() == (store / "manifest.json").read_bytes()


def test_splits_keep_canonical_order(store: Path) -> None:
    manifest = load_manifest(open_place(store))
    for split in ("train", "heldout"):
        names = [shard.name for shard in manifest.split(split)]
        assert names
        assert names == sorted(names)
    with pytest.raises(UserError, match="no split 'test'"):
        manifest.split("test")


def test_a_folder_without_manifest_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_manifest(open_place(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="unfinished build or not a store"):
        load_manifest(open_place(tmp_path))


def _spoil(store: Path, path: str, value: Any) -> None:
    raw = json.loads((store / "manifest.json").read_bytes())
    *parents, last = path.split("/")
    target = raw
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]
    target[last] = value
    (store / "manifest.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0b", "tokenizer/../../x", 7, None]
)
def test_shard_names_cannot_leave_the_store(store: Path, name: object) -> None:
    _spoil(store, "shards/0/name", name)
    with pytest.raises(UserError, match="plain file name inside the store"):
        load_manifest(open_place(store))
    _spoil(store, "shards/0/name", "train-000000-00.arrow")
    _spoil(store, "token_counts/name", name)
    with pytest.raises(UserError, match="plain file name inside the store"):
        load_manifest(open_place(store))


@pytest.mark.parametrize("name", ["../x", "tokenizer/../x", "/tokenizer/x", "tokenizer", "x", "tokenizer//x"])
def test_tokenizer_paths_stay_in_their_folder(store: Path, name: str) -> None:
    _spoil(store, "tokenizer/files", {name: "0" * 64})
    with pytest.raises(UserError, match="tokenizer/NAME inside the store"):
        load_manifest(open_place(store))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 1, "version 1, this program reads version 2"),
        ("version", "1", "version is not a whole number"),
        ("shards", {}, "shards is not a list"),
        ("shards/0/split", "test", "train or heldout"),
        ("shards/0/rows", -1, "rows is not a whole number"),
        ("shards/0/tokens", True, "tokens is not a whole number"),
        ("shards/0/sha256", "abc", "not a SHA-256"),
        ("tokenizer", None, "tokenizer is not an object"),
        ("counts/tokens", 1.5, "tokens is not a whole number"),
        ("settings", [], "settings is not an object"),
        ("settings/held_out", 0.5, "was altered"),
    ],
)
def test_wrong_values_are_refused_by_name(store: Path, path: str, value: object, message: str) -> None:
    _spoil(store, path, value)
    with pytest.raises(UserError, match=message):
        load_manifest(open_place(store))


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null"])
def test_unreadable_manifests_are_refused(store: Path, data: bytes) -> None:
    (store / "manifest.json").write_bytes(data)
    with pytest.raises(UserError, match="manifest"):
        load_manifest(open_place(store))


def test_the_fingerprint_covers_tokenizer_settings_and_shard_order(store: Path) -> None:
    manifest: Manifest = load_manifest(open_place(store))
    shards: list[ShardEntry] = manifest.shards
    fingerprints = {
        manifest_fingerprint("0" * 64, manifest.settings, shards),
        manifest_fingerprint(manifest.tokenizer.fingerprint, {"other": 1}, shards),
        manifest_fingerprint(manifest.tokenizer.fingerprint, manifest.settings, shards[::-1]),
        manifest.fingerprint,
    }
    assert len(fingerprints) == 4
    assert dataclasses.replace(manifest).fingerprint in fingerprints
