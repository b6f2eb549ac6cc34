"""S3 servers of other makers: stores are built to them, checked, and streamed from them, or the line says why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.streaming import generated_store
from data_pipeline.build.build import build_store
from data_pipeline.cli import main
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Missing, Place
from data_pipeline.places.s3 import PART_BYTES
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.tasks import ReadCounts, plan_tasks
from data_pipeline.report.verify import verify_store
from electra_scale.data.store import Store
from electra_scale.doctor.storage import read_store
from electra_scale.recipe.data import CacheConfig
from tests.support.fixtures.builds import write_corpus
from tests.support.fixtures.other_s3 import INSTALL, OtherServer, program_of, serving
from tests.support.fixtures.places import fetched
from tests.support.fixtures.s3 import use_environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["rclone", "moto"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherServer | None]:
    maker = request.param
    if not program_of(maker).exists():
        yield None
        return
    with serving(maker, tmp_path_factory.mktemp(maker)) as server:
        yield server


@pytest.fixture
def server(
    running: OtherServer | None,
    request: pytest.FixtureRequest,
    require_part: Callable[[bool, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> OtherServer:
    require_part(running is not None, " or ".join(INSTALL.values()))
    assert running is not None
    use_environment(monkeypatch, running.environment())
    return running


@pytest.fixture
def bucket(server: OtherServer, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    server.client().create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def place(bucket: str) -> Place:
    return open_place(f"{bucket}/some/prefix")


def test_a_place_keeps_its_promises(place: Place, big: Path, tmp_path: Path) -> None:
    data = big.read_bytes()
    place.put_file("deep/big", big)
    assert fetched(place, "deep/big", tmp_path) == data
    assert place.read_range("deep/big", PART_BYTES - 3, PART_BYTES + 5) == data[PART_BYTES - 3 : PART_BYTES + 5]
    assert place.read_range("deep/big", len(data) - 2, len(data) + 5) == data[-2:]
    assert place.read_range("deep/big", len(data) + 1, len(data) + 5) == b""
    place.put("a", b"one")
    place.put("a", b"two")
    assert place.read("a") == b"two"
    assert [(entry.name, entry.size) for entry in place.list()] == [("a", 3), ("deep/big", len(data))]
    assert place.put_new("new", b"first") is True
    assert place.put_new("new", b"second") is False
    assert place.read("new") == b"first"
    place.delete("a")
    place.delete("a")
    assert place.stat("a") is None
    for read in (lambda: place.read("a"), lambda: place.read_range("a", 0, 1), lambda: fetched(place, "a", tmp_path)):
        with pytest.raises(Missing, match="is missing"):
            read()


def test_a_store_is_built_there_once_and_is_sound(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus")
    config = BuildConfig(
        out=f"{bucket}/store",
        sources=[SourceConfig(kind="jsonl", paths=[str(tmp_path / "corpus" / "*.jsonl")])],
        tokenizer=TokenizerConfig(vocab_size=150),
        task_bytes=20_000,
        workers=1,
    )
    there = build_store(config)
    config.out = str(tmp_path / "here")
    assert build_store(config).fingerprint == there.fingerprint
    assert verify_store(f"{bucket}/store") == []
    config.out = f"{bucket}/store"
    capsys.readouterr()
    assert build_store(config).fingerprint == there.fingerprint
    assert "already built" in capsys.readouterr().err
    config.held_out = 0.5
    with pytest.raises(UserError, match="was built with other settings"):
        build_store(config)


def test_a_shard_of_several_ranges_is_streamed_and_seen_by_the_doctor(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated_store, "SHARD_BYTES", 18_000_000)
    manifest = generated_store.generate(tmp_path / "local", 18e6)
    place = open_place(f"{bucket}/store")
    for path in (path for path in (tmp_path / "local").rglob("*") if path.is_file()):
        place.put_file(str(path.relative_to(tmp_path / "local")), path)
    reading = read_store(f"{bucket}/store", 0, 1, short=False)
    assert (reading.error, reading.bytes) == (None, manifest.shards[0].bytes)
    store = Store(f"{bucket}/store", CacheConfig(folder=str(tmp_path / "cache"), limit_gb=1.0))
    assert len(store.open(manifest.shards[0]).shard.doc) == manifest.shards[0].rows
    # What training could not read, the doctor does not pass.
    place.put(manifest.shards[0].name, b"short")
    assert "gives 5 bytes, but the manifest lists" in str(read_store(f"{bucket}/store", 0, 1, short=False).error)


KEYS = [
    "raw//empty.jsonl",
    "raw/./dot.jsonl",
    "raw/../up.jsonl",
    "raw/a b+c%20d%2Fe.jsonl",
    "raw/ünï 東京 \U0001f600.jsonl",
    "raw/tab\tand\x01control.jsonl",
    "raw/[x]*?.jsonl",
    "raw/a&b<c>\"d'.jsonl",
    "raw/back\\slash.jsonl",
    "raw/ends with blank ",
    "raw/full/",
    "raw/part/1.jsonl",
    "raw/part",
    "raw/~user.jsonl",
    "raw/x?y=1#z.jsonl",
]


def documents(path: str, out: str = "") -> tuple[list[str], list[str]]:
    """The documents that a source of JSON Lines gives, and the lines about what is left out."""
    from data_pipeline.read.documents import read_task

    source = SourceConfig(kind="jsonl", paths=[path])
    lines: list[str] = []
    tasks = plan_tasks([source], find_inputs([source], out, lines.append), 1 << 20)
    return [text for task in tasks for text in read_task(task, source, ReadCounts())], lines


def test_every_key_below_a_prefix_is_read_whatever_its_characters(server: OtherServer, bucket: str) -> None:
    client, name = server.client(), bucket.removeprefix("s3://")
    put = []
    for key in [*KEYS, "/raw/leading.jsonl", "other/x.jsonl"]:
        if server.maker == "rclone" and key == "raw/part":
            # It refuses an object with a folder's name, and lists it all the same.
            continue
        try:
            client.put_object(Bucket=name, Key=key, Body=json.dumps({"text": key}).encode())
            put.append(key)
        except client.exceptions.ClientError:
            # A server that keeps objects in a folder takes no key that a folder can't hold.
            assert server.maker == "rclone"
    if server.maker == "moto":
        assert len(put) == len(KEYS) + 2
        client.put_object(Bucket=name, Key="raw/", Body=b"")
        client.put_object(Bucket=name, Key="raw/folder/", Body=b"")
        client.put_object(Bucket=name, Key="raw/.hidden.jsonl", Body=b"{}")
        for path in (f"{bucket}/raw/", f"{bucket}/raw/**"):
            found, lines = documents(path)
            assert sorted(found) == sorted(KEYS)
            assert "2 folder markers left out" in " ".join(lines)
        assert f"1 hidden name left out (a part of it starts with a dot): {bucket}/raw/.hidden.jsonl" in " ".join(
            documents(f"{bucket}/raw/")[1]
        )
        assert documents(f"{bucket}//raw/")[0] == ["/raw/leading.jsonl"]
        assert documents(f"{bucket}/raw//")[0] == ["raw//empty.jsonl"]
        client.put_object(Bucket=name, Key="zero", Body=b"")
        client.put_object(Bucket=name, Key="zero/1.jsonl", Body=b'{"text": "below"}')
        found, lines = documents(f"{bucket}/zero")
        assert found == ["below"]
        assert "1 folder marker left out" in lines[0]
        found, lines = documents(f"{bucket}/raw/part")
        assert found == ["raw/part"]
        assert "an object has its name" in lines[0]
        for key in KEYS:
            if not key.endswith("/"):
                assert documents(f"{bucket}/{key}")[0] == [key]
    else:
        assert len(put) > 8
        # It spells control characters in another way.
        plain = sorted(key for key in put if key.isprintable() and key.startswith("raw/") and key != "raw/full/")
        assert sorted(text for text in documents(f"{bucket}/raw/")[0] if text in plain) == plain


def test_stores_below_a_prefix_are_no_source(server: OtherServer, bucket: str, tmp_path: Path) -> None:
    place = open_place(bucket)
    place.put("raw/a.jsonl", b'{"text": "a"}\n' * 3)
    place.put("raw/deep/runs/r1/recipe.yaml", b"x: 1")
    place.put("raw/deep/runs/r1/metrics.jsonl", b'{"step": 1}\n')
    place.put("raw/other/manifest.json", b'{"somebody": "else"}')
    place.put("raw/other/b.jsonl", b'{"text": "b"}\n')
    options = ["--tokenizer.vocab_size", "40", "--tokenizer.min_frequency", "1", "--held_out", "0", "--workers", "1"]
    sources = f'[{{"kind": "jsonl", "paths": ["{bucket}/raw/**/*.jsonl"]}}]'
    for _ in range(2):
        assert main(["build", "--out", f"{bucket}/raw/store", "--sources", sources, *options]) == 0
    found, lines = documents(f"{bucket}/raw/**/*.jsonl")
    assert sorted(found) == ["a", "a", "a", "b"]
    assert any("it is a store of electra-data" in line and "raw/store/" in line for line in lines)
    assert any("it is a run folder" in line and "raw/deep/runs/r1/" in line for line in lines)
    with pytest.raises(UserError, match="lies in out"):
        find_inputs([SourceConfig(paths=[f"{bucket}/raw/store/x/*"])], f"{bucket}/raw/store")
