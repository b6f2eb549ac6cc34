"""A shard can be read by anyone, and a bad one is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from data_pipeline.store.shard import open_shard, read_shard, shard_schema, write_shard

FINGERPRINT = "ab" * 32
ROWS = [[5, 6, 7], [8], [9, 10, 11, 12]]
DOCS = [3, 2**64 - 1, 7]


def write(path: Path, rows: list[list[int]] = ROWS, **changes: Any) -> Path:
    settings: dict[str, Any] = {"vocab_size": 100, "tokenizer_fingerprint": FINGERPRINT} | changes
    write_shard(path, *flattened(rows), np.array(DOCS[: len(rows)], np.uint64), **settings)
    return path


def flattened(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(tokens,) ids of all rows and (rows + 1,) offsets."""
    flat = np.array([token for row in rows for token in row], np.uint32)
    return flat, np.cumsum([0, *map(len, rows)])


@pytest.mark.parametrize(("vocab_size", "kind"), [(100, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_every_reader_gives_the_same_ids(tmp_path: Path, vocab_size: int, kind: type) -> None:
    path = write(tmp_path / "s.arrow", vocab_size=vocab_size)
    shard = open_shard(path, FINGERPRINT)
    assert shard.ids.dtype == kind
    assert [shard.ids[a:b].tolist() for a, b in zip(shard.offsets, shard.offsets[1:], strict=False)] == ROWS
    assert shard.doc.tolist() == DOCS
    with ipc.open_file(path) as reader:
        assert reader.num_record_batches == 1
        assert reader.read_all().to_pydict() == {"ids": ROWS, "doc": DOCS}
    frame = polars.read_ipc(path)
    assert frame["ids"].to_list() == ROWS
    assert frame["doc"].to_list() == DOCS
    data = datasets.load_dataset("arrow", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert data["ids"][:] == ROWS
    assert data["doc"][:] == DOCS


def test_an_open_shard_is_a_view_of_the_memory_map(tmp_path: Path) -> None:
    shard = open_shard(write(tmp_path / "s.arrow"))
    assert not shard.ids.flags.owndata
    assert not shard.ids.flags.writeable
    assert shard.offsets.dtype == np.int64
    assert shard.doc.dtype == np.uint64


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 65_535), max_size=20), max_size=20))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("shard") / "s.arrow"
    docs = np.arange(len(rows), dtype=np.uint64)
    write_shard(path, *flattened(rows), docs, vocab_size=65_536, tokenizer_fingerprint=FINGERPRINT)
    shard = open_shard(path)
    assert [shard.ids[a:b].tolist() for a, b in zip(shard.offsets, shard.offsets[1:], strict=False)] == rows


def test_ids_that_do_not_fit_are_refused_at_write(tmp_path: Path) -> None:
    path = tmp_path / "s.arrow"
    with pytest.raises(UserError, match=r"uint16 holds at most 65,536.*auto or uint32"):
        write(path, vocab_size=65_537, ids_type="uint16")
    with pytest.raises(UserError, match="token id 12 is outside the vocabulary of 10"):
        write(path, vocab_size=10)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.arrow is missing"):
        open_shard(tmp_path / "nowhere.arrow")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "s.arrow").read_bytes()
    for size in range(0, len(data), 7):
        (tmp_path / "cut.arrow").write_bytes(data[:size])
        with pytest.raises(UserError):
            open_shard(tmp_path / "cut.arrow")


def test_a_hostile_byte_never_gives_more_than_a_refusal(tmp_path: Path) -> None:
    sound = write(tmp_path / "s.arrow").read_bytes()
    outcomes: Counter[str] = Counter()

    @settings(max_examples=150, deadline=None)
    @given(position=st.integers(0, len(sound) - 1), value=st.integers(0, 255))
    def check(position: int, value: int) -> None:
        data = bytearray(sound)
        data[position] = value
        try:
            shard = read_shard(pa.py_buffer(bytes(data)), "hostile")
        except UserError:
            outcomes["refused"] += 1
            return
        outcomes["read"] += 1
        assert shard.offsets[0] == 0
        assert shard.offsets[-1] == len(shard.ids)
        assert (np.diff(shard.offsets) >= 0).all()
        assert len(shard.doc) == len(shard.offsets) - 1

    check()
    assert outcomes["refused"] > 5
    assert outcomes["read"] > 5


def _foreign(tmp_path: Path, schema: pa.Schema, columns: dict[str, Any], batches: int = 1) -> Path:
    path = tmp_path / "foreign.arrow"
    with ipc.new_file(str(path), schema) as writer:
        for _ in range(batches):
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return path


def test_foreign_arrow_files_are_refused(tmp_path: Path) -> None:
    good = shard_schema(np.dtype(np.uint16), FINGERPRINT)
    columns: dict[str, Any] = {"ids": [[1, 2]], "doc": [1]}
    metadata = dict(good.metadata)
    cases = [
        (pa.schema(list(good)), 1, "not a shard"),
        (good.with_metadata(metadata | {b"version": b"9"}), 1, "version 9"),
        (
            good.with_metadata({b"format": metadata[b"format"], b"version": b"1"}),
            1,
            "does not name its tokenizer",
        ),
        (good, 2, "2 record batches"),
        (pa.schema([("ids", pa.list_(pa.int64())), ("doc", pa.uint64())], metadata), 1, "not a shard"),
    ]
    for schema, batches, message in cases:
        with pytest.raises(UserError, match=message):
            open_shard(_foreign(tmp_path, schema, columns, batches))
    nullable = pa.schema([("ids", good.field("ids").type), ("doc", pa.uint64())], metadata)
    path = _foreign(tmp_path, nullable, {"ids": [[1], None], "doc": [1, 2]})
    with pytest.raises(UserError, match="null values"):
        open_shard(path)
    with pytest.raises(UserError, match="belongs to another store"):
        open_shard(write(tmp_path / "s.arrow"), "cd" * 32)
