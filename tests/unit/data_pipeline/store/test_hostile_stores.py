"""Whatever a store's files hold, readers answer with one line or a fault, never with a crash or a huge allocation."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.report.describe import describe_store
from data_pipeline.report.verify import verify_store
from data_pipeline.store.manifest import load_manifest, manifest_fingerprint
from data_pipeline.store.shard import open_shard, read_shard, shard_schema
from data_pipeline.store.token_counts import load_token_counts
from data_pipeline.tokenize.description import tokenizer_json
from data_pipeline.tokenize.tokenizer import load_tokenizer, parse_tokenizer
from tests.unit.data_pipeline.report.test_verify import rewrite

FINGERPRINT = "ab" * 32
_QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_HUGE = (-1, -(1 << 63), 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1)


def _file(schema: pa.Schema, batches: list[pa.RecordBatch], compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    with ipc.new_file(sink, schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def _good(rows: list[list[int]], compression: str | None = None) -> bytes:
    schema = shard_schema(np.dtype(np.uint16), FINGERPRINT)
    columns = [pa.array(rows, schema.field("ids").type), pa.array(range(len(rows)), pa.uint64())]
    return _file(schema, [pa.record_batch(columns, schema=schema)], compression)


_ROWS = [[5, 6, 7], [8], [9, 10, 11, 12]]
_SOUND = _good(_ROWS)


def _patched(data: bytes, old: bytes, news: list[bytes]) -> Iterator[bytes]:
    """``data`` with each occurrence of ``old`` replaced on its own by each of ``news``."""
    assert old in data
    begin = data.find(old)
    while begin >= 0:
        for new in news:
            yield data[:begin] + new + data[begin + len(old) :]
        begin = data.find(old, begin + 1)


def _other_columns() -> Iterator[bytes]:
    metadata = shard_schema(np.dtype(np.uint16), FINGERPRINT).metadata
    ids, doc = pa.array(_ROWS, pa.list_(pa.uint16())), pa.array([0, 1, 2], pa.uint64())
    for columns in (
        {"ids": ids, "doc": doc.cast(pa.int64())},
        {"ids": pa.array(_ROWS, pa.large_list(pa.uint16())), "doc": doc},
        {"ids": pa.array(_ROWS, pa.list_(pa.int32())), "doc": doc},
        {"ids": pa.array([_ROWS] * 3, pa.list_(pa.list_(pa.uint16()))), "doc": doc},
        {"ids": pa.array([[1, 2]] * 3, pa.list_(pa.uint16(), 2)), "doc": doc},
        {"ids": pa.array(["a", "b", "c"]), "doc": doc},
        {"ids": ids, "doc": doc.dictionary_encode()},
        {"ids": pa.array(["a", "b", "a"]).dictionary_encode(), "doc": doc},
        {"doc": doc, "ids": ids},
        {"ids": ids},
        {"ids": ids, "doc": doc, "more": doc},
        {"ids": pa.StructArray.from_arrays([ids], ["ids"]), "doc": doc},
    ):
        batch = pa.record_batch(columns)
        yield _file(batch.schema.with_metadata(metadata), [batch.replace_schema_metadata(metadata)])


def hostile_shards() -> dict[str, bytes]:
    """Files that a reader must refuse, by what is wrong with them."""
    schema = shard_schema(np.dtype(np.uint16), FINGERPRINT)
    batch = pa.record_batch([pa.array(_ROWS, pa.list_(pa.uint16())), pa.array([0, 1, 2], pa.uint64())], schema=schema)
    nullable = pa.schema([("ids", pa.list_(pa.uint16())), ("doc", pa.uint64())], schema.metadata)
    stream = io.BytesIO()
    with ipc.new_stream(stream, schema) as writer:
        writer.write_batch(batch)
    offsets = np.array([0, 3, 4, 8], np.int32)
    wrong = ([0, 4, 3, 8], [0, 3, 4, 9], [-1, 3, 4, 8], [0, -5, 4, 8], [0, 3, 4, 1 << 30], [1, 3, 4, 8], [0, 3, 4, 7])
    found: dict[str, list[bytes]] = {
        "offsets": list(_patched(_SOUND, offsets.tobytes(), [np.array(row, np.int32).tobytes() for row in wrong])),
        "columns": list(_other_columns()),
        "empty": [b"", b"ARROW1", b"ARROW1\0\0ARROW1", b"\0" * 4096],
        "stream": [stream.getvalue(), stream.getvalue() + b"ARROW1"],
        "batches": [_file(schema, []), _file(schema, [batch, batch]), _file(schema, [batch, batch.slice(0, 0)])],
        "nulls": [
            _file(nullable, [pa.record_batch({"ids": ids, "doc": doc}, schema=nullable)])
            for ids, doc in (([[1], None], [1, 2]), ([[1], [None]], [1, 2]), ([[1], [2]], [1, None]))
        ],
        "metadata": [
            _file(schema.with_metadata(metadata), [batch.replace_schema_metadata(metadata)])
            for metadata in (
                None,
                {"format": "electra-scale-shard"},
                {"format": "electra-scale-shard", "version": "1"},
                {"format": "x" * 100_000},
                {"format": "electra-scale-shard", "version": "\n\x1b[2J" * 10},
            )
        ],
    }
    for codec in ("zstd", "lz4"):
        if pa.Codec.is_available(codec):
            zeros = _good([[0] * 10_000], codec)
            size = (20_000).to_bytes(8, "little")
            huge = [value.to_bytes(8, "little", signed=True) for value in _HUGE]
            found[codec] = [zeros, *_patched(zeros, size, huge)]
    return {f"{kind}-{index}": data for kind, files in found.items() for index, data in enumerate(files)}


_CHILD = """
import resource, sys
from pathlib import Path
from data_pipeline.errors import UserError
from data_pipeline.store.shard import open_shard
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        shard = open_shard(path)
        if len(shard.ids):
            int(shard.ids.max())
        int(shard.doc.sum())
        print(path.name, "taken")
    except UserError as error:
        assert "\\n" not in str(error), str(error)
        print(path.name, "refused")
print("grown", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def _read_in_a_child(folder: Path) -> tuple[dict[str, str], int]:
    """What became of each file, and the MiB that reading took; a crash fails the test, not the session."""
    done = subprocess.run([sys.executable, "-c", _CHILD, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-2000:]
    *lines, last = done.stdout.splitlines()
    return dict(line.split(" ") for line in lines), int(last.split()[1])


def test_hostile_arrow_files_are_refused_without_a_crash_and_without_their_memory(tmp_path: Path) -> None:
    files = hostile_shards()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    outcome, grown = _read_in_a_child(tmp_path)
    assert {name for name, what in outcome.items() if what == "taken"} == set()
    assert outcome.keys() == files.keys()
    assert grown < 100


def test_absurd_sizes_inside_a_file_ask_for_no_memory(tmp_path: Path) -> None:
    values = [value.to_bytes(8, "little", signed=True) for value in _HUGE]
    numbers = (len(_ROWS), 8, 16, 24)
    files = [data for number in numbers for data in _patched(_SOUND, number.to_bytes(8, "little"), values)]
    for index, data in enumerate(files):
        (tmp_path / f"{index:05d}").write_bytes(data)
    outcome, grown = _read_in_a_child(tmp_path)
    assert len(outcome) == len(files) > 50
    assert "refused" in outcome.values()
    assert grown < 100


def test_flipped_bits_and_truncations_give_a_whole_shard_or_a_line() -> None:
    outcomes: Counter[str] = Counter()

    @_QUICK
    @given(
        changes=st.lists(st.tuples(st.integers(0, len(_SOUND) - 1), st.integers(0, 7)), min_size=1, max_size=6),
        size=st.integers(0, 2 * len(_SOUND)),
    )
    def check(changes: list[tuple[int, int]], size: int) -> None:
        data = bytearray(_SOUND)
        for position, bit in changes:
            data[position] ^= 1 << bit
        try:
            shard = read_shard(pa.py_buffer(bytes(data[:size])), "hostile")
        except UserError as error:
            outcomes["refused"] += 1
            _one_line(error)
            return
        outcomes["read"] += 1
        assert shard.offsets[0] == 0
        assert shard.offsets[-1] == len(shard.ids)
        assert (np.diff(shard.offsets) >= 0).all()
        assert len(shard.doc) == len(shard.offsets) - 1

    check()
    assert outcomes["refused"] > 10
    assert outcomes["read"] > 0


def _one_line(error: UserError) -> None:
    assert str(error)
    assert "\n" not in str(error)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_verify_names_a_hostile_shard_whose_checksum_fits(store: Path, tmp_path: Path) -> None:
    manifest = load_manifest(open_place(store))
    first = manifest.shards[0]
    for data in hostile_shards().values():
        (store / first.name).write_bytes(data)
        entry = dataclasses.replace(first, sha256=_sha256(data), bytes=len(data))
        rewrite(store, shards=[entry, *manifest.shards[1:]])
        before = _tree(tmp_path)
        (problem,) = verify_store(store)
        assert problem.startswith(f"{first.name}: ")
        assert "\n" not in problem
        with pytest.raises(UserError):
            list(describe_store(store, 1))
        assert _tree(tmp_path) == before


def _set(raw: Any, path: list[Any], value: Any) -> Any:
    for key in path[:-1]:
        raw = raw[key]
    raw[path[-1]] = value
    return raw


_PATHS: list[list[Any]] = [
    ["version"], ["fingerprint"], ["tokenizer"], ["tokenizer", "vocab_size"], ["tokenizer", "files"],
    ["tokenizer", "fingerprint"], ["shards"], ["shards", 0], ["shards", 0, "name"], ["shards", 0, "rows"],
    ["shards", 0, "tokens"], ["shards", 0, "bytes"], ["shards", 0, "split"], ["shards", 0, "source"],
    ["shards", 0, "sha256"], ["counts"], ["counts", "tokens"], ["counts", "new"], ["settings"], ["settings", "sources"],
    ["settings", "clean"], ["settings", "new"], ["token_counts"], ["token_counts", "name"], ["token_counts", "sha256"],
]  # fmt: skip
_NAMES = [
    "../x",
    "/etc/passwd",
    "a\0b",
    "a\\b",
    "tokenizer/../../x",
    "..",
    "a\nb",
    "\ud800",
    "x" * 5000,
    "\x1b[2J",
    " ",
]
_SPECIALS = [
    None, True, -1, 1.5, 1 << 31, 1 << 24, (1 << 24) + 1, 1 << 63, 1 << 70, 10**400, float("nan"), float("inf"), "", [],
    {}, [[]], [{}], ["\ud800"], {"\ud800": 1}, {"tokenizer/a\nb": "0" * 64}, *_NAMES,
]  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _look_at_everything(store: Path) -> int:
    """Each reader gives its answer or one line; how many gave a line."""
    refused = 0
    for look in (
        lambda url: load_manifest(open_place(url)),
        verify_store,
        lambda url: list(describe_store(url, 2)),
        lambda url: load_token_counts(open_place(url), load_manifest(open_place(url))),
    ):
        try:
            look(store)
        except UserError as error:
            _one_line(error)
            refused += 1
    return refused


def test_any_value_anywhere_in_a_manifest_gives_an_answer_or_a_line(
    session_store: Path, store: Path, tmp_path: Path
) -> None:
    refused: list[int] = []

    @settings(parent=_QUICK, max_examples=100)
    @given(path=st.sampled_from(_PATHS), value=st.sampled_from(_SPECIALS) | _JSON, refit=st.booleans())
    @example(path=["version"], value=None, refit=False)
    @example(path=["counts", "new"], value=1, refit=False)
    def check(path: list[Any], value: Any, refit: bool) -> None:
        raw = json.loads((session_store / "manifest.json").read_bytes())
        _set(raw, path, value)
        if refit:
            try:
                sound = load_manifest(open_place(session_store)).shards[0]
                shards = [dataclasses.replace(sound, sha256=shard["sha256"]) for shard in raw["shards"]]
                raw["fingerprint"] = manifest_fingerprint(raw["tokenizer"]["fingerprint"], raw["settings"], shards)
            except (AttributeError, KeyError, TypeError, ValueError):
                pass
        (store / "manifest.json").write_text(json.dumps(raw))
        before = _tree(tmp_path)
        refused.append(_look_at_everything(store))
        assert _tree(tmp_path) == before

    check()
    assert sum(number > 0 for number in refused) > 10
    assert 0 in refused, "no manifest is taken any more"


@pytest.mark.parametrize("name", [*_NAMES[:8], 7, None, ["a"], ""])
def test_no_name_in_a_manifest_leaves_the_store(store: Path, name: object) -> None:
    sound = (store / "manifest.json").read_bytes()
    for path in (["shards", 0, "name"], ["token_counts", "name"]):
        raw = json.loads(sound)
        _set(raw, path, name)
        (store / "manifest.json").write_text(json.dumps(raw))
        with pytest.raises(UserError, match="plain file name inside the store"):
            load_manifest(open_place(store))
    raw = json.loads(sound)
    raw["tokenizer"]["files"] = {str(name): "0" * 64}
    (store / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="tokenizer/NAME inside the store"):
        load_manifest(open_place(store))


@pytest.mark.parametrize(
    "settings_text",
    [
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": "\\ud800"}',
        '{"a": 1' + "0" * 5000 + "}",
        '{"a": ' + "[" * 900 + "]" * 900 + "}",
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001,
    ],
)
def test_settings_that_are_no_plain_json_are_refused(store: Path, settings_text: str) -> None:
    raw = json.loads((store / "manifest.json").read_bytes())
    raw["settings"] = "HERE"
    (store / "manifest.json").write_text(json.dumps(raw).replace('"HERE"', settings_text))
    with pytest.raises(UserError, match=r"manifest\.json"):
        load_manifest(open_place(store))


def test_a_manifest_that_names_a_file_twice_is_refused(store: Path) -> None:
    manifest = load_manifest(open_place(store))
    twin = dataclasses.replace(manifest.shards[1], name=manifest.shards[0].name)
    rewrite(store, shards=[manifest.shards[0], twin])
    with pytest.raises(UserError, match="lists a shard twice"):
        load_manifest(open_place(store))


def test_a_damaged_manifest_gives_one_line(store: Path) -> None:
    sound = (store / "manifest.json").read_bytes()
    refused: Counter[str] = Counter()

    @_QUICK
    @given(position=st.integers(0, 1 << 20), value=st.integers(0, 255), cut=st.integers(0, 1 << 20))
    def check(position: int, value: int, cut: int) -> None:
        data = bytearray(sound)
        data[position % len(data)] = value
        # The last byte is the end of a line, without which it is whole.
        for damage, hostile in (("changed", bytes(data)), ("cut", sound[: cut % (len(sound) - 1)])):
            (store / "manifest.json").write_bytes(hostile)
            try:
                load_manifest(open_place(store))
            except UserError as error:
                refused[damage] += 1
                _one_line(error)
            else:
                assert damage != "cut"

    check()
    assert refused["changed"] > 10


def _tokenizer_parts(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(raw, dict) and len(raw) < 50:
        for key, inner in raw.items():
            yield from _tokenizer_parts(inner, (*path, key))
    elif isinstance(raw, list):
        yield from _tokenizer_parts(raw[0], (*path, 0)) if raw else ()


def test_a_hostile_tokenizer_gives_a_tokenizer_or_one_line(session_store: Path) -> None:
    sound = (session_store / "tokenizer" / "tokenizer.json").read_bytes()
    paths = sorted(_tokenizer_parts(json.loads(sound)), key=str)
    outcomes: Counter[str] = Counter()

    @settings(parent=_QUICK, max_examples=300)
    @given(path=st.sampled_from(paths), value=st.sampled_from(_SPECIALS[:-11]) | _JSON)
    def check(path: tuple[Any, ...], value: Any) -> None:
        raw = json.loads(sound)
        _set(raw, list(path), value)
        try:
            tokenizer_json(parse_tokenizer(json.dumps(raw).encode(), "tokenizer.json")[0])
        except UserError as error:
            outcomes["refused"] += 1
            _one_line(error)
        else:
            outcomes["taken"] += 1

    check()
    assert outcomes["refused"] > 10
    assert outcomes["taken"] > 0


@pytest.mark.parametrize("hostile", [b"", b"{}", b"null", b"\xff", b"[" * 200_000, b'{"a":' * 200_000, b"\0" * 1000])
def test_bytes_that_are_no_tokenizer_give_one_line(store: Path, hostile: bytes) -> None:
    (store / "tokenizer" / "tokenizer.json").write_bytes(hostile)
    with pytest.raises(UserError, match=r"cannot read tokenizer .*tokenizer\.json") as caught:
        load_tokenizer(store)
    assert "\n" not in str(caught.value)
    assert [line.split(",")[0] for line in verify_store(store)] == ["tokenizer/tokenizer.json: wrong checksum"]


def test_a_tokenizer_with_an_absurd_id_asks_for_no_memory(store: Path) -> None:
    path = store / "tokenizer" / "tokenizer.json"
    raw = json.loads(path.read_bytes())
    raw["model"]["vocab"]["absurd"] = (1 << 32) - 1
    path.write_text(json.dumps(raw))
    manifest = load_manifest(open_place(store))
    files = manifest.tokenizer.files | {"tokenizer/tokenizer.json": _sha256(path.read_bytes())}
    rewrite(store, tokenizer=dataclasses.replace(manifest.tokenizer, files=files))
    assert any("4294967296 entries, not 200" in line for line in verify_store(store))


def test_a_shard_that_is_a_folder_gives_one_line(store: Path) -> None:
    name = load_manifest(open_place(store)).split("train")[0].name
    (store / name).unlink()
    (store / name).mkdir()
    assert verify_store(store) == [f"{name}: cannot be read (Is a directory)"]
    with pytest.raises(UserError):
        open_shard(store / name)
