"""Verify and inspect say the same of a store in a folder and in a bucket, and name what is wrong."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.build.build import build_store
from data_pipeline.cli import main
from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Place, Unavailable
from data_pipeline.report.describe import describe_store
from data_pipeline.report.verify import verify_store
from data_pipeline.store.manifest import Manifest, load_manifest, manifest_fingerprint, write_manifest
from data_pipeline.tokenize.tokenizer import load_tokenizer, tokenizer_fingerprint
from tests.unit.data_pipeline.conftest import make_config

Publish = Callable[[Path], Place]


@pytest.fixture(params=["folder", "s3"])
def publish(request: pytest.FixtureRequest) -> Publish:
    """Leave a store where it is, or copy it to a bucket."""
    if request.param == "folder":
        return open_place

    def upload(store: Path) -> Place:
        place = open_place(f"{request.getfixturevalue('s3')}/some/prefix")
        for path in store.rglob("*"):
            if path.is_file():
                place.put_file(str(path.relative_to(store)), path)
        return place

    return upload


@pytest.fixture
def place(publish: Publish, store: Path) -> Place:
    return publish(store)


def rewrite(store: Path, **changes: Any) -> Manifest:
    """Change entries of a manifest and make its fingerprint fit again."""
    manifest = dataclasses.replace(load_manifest(open_place(store)), **changes)
    fingerprint = manifest_fingerprint(manifest.tokenizer.fingerprint, manifest.settings, manifest.shards)
    manifest = dataclasses.replace(manifest, fingerprint=fingerprint)
    (store / "manifest.json").unlink()
    write_manifest(open_place(store), manifest)
    return manifest


def test_a_sound_store_has_no_faults_and_leaves_no_copies(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert verify_store(place.url) == []
    assert main(["verify", place.url]) == 0
    assert capsys.readouterr().out == f"{place.url}: sound\n"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_every_fault_is_found_and_named(place: Place) -> None:
    manifest = load_manifest(place)
    first, second, third = manifest.shards[0].name, manifest.shards[-1].name, manifest.shards[1].name
    data = bytearray(place.read(first))
    data[len(data) // 2] ^= 1
    place.put(first, bytes(data))
    place.put(second, place.read(second)[:-9])
    place.delete(third)
    place.put("tokenizer/vocab.txt", b"")
    place.delete("token_counts.npy")
    found = sorted(verify_store(place.url))
    assert [line.split(" instead")[0].rsplit(",", 1)[0] for line in found] == sorted(
        [
            f"{first}: wrong checksum",
            f"{second}: wrong checksum",
            f"{third}: missing",
            "tokenizer/vocab.txt: wrong checksum",
            "token_counts.npy: missing",
        ]
    )


def test_a_manifest_that_disagrees_with_its_files_is_a_fault(publish: Publish, store: Path) -> None:
    manifest = load_manifest(open_place(store))
    shard = manifest.shards[0]
    wrong = dataclasses.replace(shard, rows=shard.rows + 1, bytes=shard.bytes - 1, source="other")
    rewrite(store, shards=[wrong, *manifest.shards[1:]])
    assert verify_store(publish(store).url) == [
        f"{shard.name}: its source 'other' is not among those of the build's settings",
        f"{shard.name}: {shard.bytes} bytes, the manifest says {shard.bytes - 1}",
        f"{shard.name}: {shard.rows} rows and {shard.tokens} tokens, "
        f"the manifest says {shard.rows + 1} and {shard.tokens}",
    ]


def test_counts_that_the_shards_do_not_bear_out_are_faults(publish: Publish, store: Path) -> None:
    counts = load_manifest(open_place(store)).counts
    wrong = counts | {"tokens": counts["tokens"] + 1, "documents_heldout": 0, "unknown_tokens": 77}
    rewrite(store, counts=wrong)
    assert [line.split(" is ")[0] for line in verify_store(publish(store).url)] == [
        "manifest.json: counts.tokens",
        "manifest.json: counts.documents_heldout",
        "manifest.json: counts.unknown_tokens",
    ]


def test_token_counts_that_the_shards_do_not_bear_out_are_a_fault(store: Path) -> None:
    manifest = load_manifest(open_place(store))
    counts = np.load(store / "token_counts.npy")
    counts[7] += 1
    sink = io.BytesIO()
    np.save(sink, counts)
    (store / "token_counts.npy").write_bytes(sink.getvalue())
    entry = dataclasses.replace(manifest.token_counts, sha256=_sha256(sink.getvalue()))
    rewrite(store, token_counts=entry)
    assert verify_store(store) == ["token_counts.npy: does not agree with the shards of the train split"]


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_the_tokenizer_of_a_bucket_is_that_of_the_folder(place: Place, store: Path) -> None:
    assert tokenizer_fingerprint(load_tokenizer(place.url)) == load_manifest(open_place(store)).tokenizer.fingerprint
    place.delete("tokenizer/tokenizer.json")
    with pytest.raises(UserError, match=r"has no tokenizer/tokenizer\.json: an unfinished build or not a store"):
        load_tokenizer(place.url)


def test_a_description_is_the_same_wherever_the_store_lies(place: Place, store: Path) -> None:
    described = list(describe_store(place.url, 3))
    assert described[0] == f"store        {place.url}"
    assert described[1:] == list(describe_store(store, 3))[1:]
    manifest = load_manifest(open_place(store))
    rows, tokens = manifest.counts["documents"], manifest.counts["tokens"]
    shown = "\n".join(described)
    assert f"  main (train): {len(manifest.split('train'))} shards, {rows:,} documents, {tokens:,} tokens" in shown
    assert sum(line.startswith("sample ") for line in described) == 3
    for name in manifest.counts:
        assert f"\n  {name} " in shown


def test_sources_are_told_apart(tmp_path: Path, jsonl: Path) -> None:
    (tmp_path / "more.txt").write_text("A river and a stone.\n\nA bridge and a garden.\n")
    build_store(
        make_config(
            tmp_path / "store",
            SourceConfig(kind="jsonl", paths=[str(jsonl)], label="stories"),
            SourceConfig(kind="text", paths=[str(tmp_path / "more.txt")], label="lines"),
            held_out=0.0,
        )
    )
    described = "\n".join(describe_store(tmp_path / "store", 0))
    assert "\n  stories (train): " in described
    assert "\n  lines (train): 1 shards, 2 documents, " in described
    assert "sample" not in described
    assert verify_store(tmp_path / "store") == []


def test_no_store_and_a_wrong_number_of_samples_are_told(place: Place, s3: str, tmp_path: Path) -> None:
    for url in (f"{s3}/nothing", str(tmp_path / "nowhere"), str(tmp_path)):
        for look in (verify_store, lambda url: list(describe_store(url, 1))):
            with pytest.raises(UserError, match=r"no store at|unfinished build or not a store"):
                look(url)
    with pytest.raises(UserError, match="--samples is -1"):
        list(describe_store(place.url, -1))


def test_a_server_that_does_not_answer_is_no_fault_of_the_store(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "1")
    with pytest.raises(Unavailable):
        verify_store(f"{s3}/store")
