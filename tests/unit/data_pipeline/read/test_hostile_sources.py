"""Broken and hostile inputs are counted and skipped, or end in one line that names the file; nothing else happens."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.clean.cleaner import Cleaner
from data_pipeline.config import CleanConfig, SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.read.documents import MAX_RAW_BYTES, ReadCounts, read_task
from data_pipeline.read.hub import _open
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.tasks import plan_tasks
from tests.unit.data_pipeline.read.test_wikipedia import HEAD, TAIL, page

LINES = b"".join(
    json.dumps({"text": f"Document {number}: " + "words and more " * 20}).encode() + b"\n" for number in range(40)
)


def read(path: Path, kind: Any, **more: Any) -> tuple[list[str], ReadCounts]:
    counts = ReadCounts()
    source = SourceConfig(kind=kind, paths=[str(path)], **more)
    found: list[str] = []
    for task in plan_tasks([source], find_inputs([source]), 1 << 30):
        found.extend(read_task(task, source, counts))
    return found, counts


def read_or_told(path: Path, kind: Any, **more: Any) -> list[str] | None:
    """The documents, which cleaning must survive too, or None after a line that names the file."""
    cleaner = Cleaner(CleanConfig())
    try:
        found, counts = read(path, kind, **more)
    except UserError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert str(path) in message
        assert "\n" not in message
        return None
    assert counts.documents_read == len(found)
    for text in found:
        cleaner.clean(text).data.decode("utf-8")
    return found


def test_hostile_json_lines_cost_themselves_only(tmp_path: Path) -> None:
    good = b'{"text": "good"}'
    bad = [
        b'{"text": "\xff\xfe"}',
        b'{"text": "\xed\xa0\x80"}',  # half a surrogate pair in UTF-8's clothes
        rb'{"text": "\udc00"}',
        rb'{"text": "\ud83d"}',
        b"[" * 100_000,
        b'{"text":' * 50_000,
        b'{"text": ' + b"9" * 10_000 + b"}",
        b'{"text": "a"} {"text": "b"}',
        b'{"text": "never closed',
        b'{"text": null}',
        b'{"text": ["a"]}',
        b'"text"',
        b"\x00" * 50,
        b'{"text": "line\x01feed"}',
        '{"text": "utf-16"}'.encode("utf-16"),
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(part for line in bad for part in (good, line)) + b"\n" + good)
    found, counts = read(path, "jsonl")
    assert found == ["good"] * (len(bad) + 1)
    assert counts.bad_lines == len(bad)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes(rb'{"text": "\ud83d\ude00 nul \u0000 twice", "text": "\ud83d\ude00\u0000"}')
    assert read(pairs, "jsonl")[0] == ["\U0001f600\x00"]


def test_any_bytes_are_read_as_text_and_json_lines_or_refused_by_name(tmp_path: Path) -> None:
    refused: list[bool] = []
    some = st.binary(max_size=200)
    like_json = st.text(alphabet='{}[]":,\\u0dtextfalse1e9 \n', max_size=200).map(str.encode)

    @settings(max_examples=200, deadline=None)
    @given(data=some | like_json)
    @example(data=b"")
    @example(data=b"\0" * 50)
    def check(data: bytes) -> None:
        path = tmp_path / "a"
        path.write_bytes(data)
        refused.append(read_or_told(path, "jsonl") is None)
        for documents in ("line", "blank_line", "file"):
            assert (read_or_told(path, "text", documents=documents) is None) == refused[-1]

    check()
    assert any(refused)
    assert sum(refused) < len(refused) / 2


@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_a_line_of_100_mb_is_skipped_in_bounded_memory(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "a"
    with open(path, "wb") as file:
        # More than is looked at to see whether it is text.
        file.write(b'{"text": "' + b"first" * 2000 + b'"}\n\n')
        # A hole in the file reads as zeros and takes no room.
        file.seek(100 << 20, io.SEEK_CUR)
        file.write(b'\n\n{"text": "last"}\n')
    tracemalloc.start()
    try:
        found, counts = read(path, kind, documents="line")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 2
    assert counts.oversized == 1
    assert peak < MAX_RAW_BYTES * 2 + (16 << 20)


@pytest.mark.parametrize("kind", ["jsonl", "text", "parquet", "wikipedia"])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst", ".bz2"])
def test_an_empty_file_gives_nothing_or_a_line(tmp_path: Path, kind: Any, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"")
    assert not read_or_told(path, kind)
    packed = {"": b"", ".gz": gzip.compress(b""), ".zst": zstandard.compress(b""), ".bz2": bz2.compress(b"")}
    path.write_bytes(packed[ending])
    assert not read_or_told(path, kind)


PACKED = {
    ".gz": gzip.compress(LINES, mtime=0),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress(LINES),
    ".bz2": bz2.compress(LINES[: len(LINES) // 2]) + bz2.compress(LINES[len(LINES) // 2 :]),
}


@settings(max_examples=150, deadline=None)
@given(ending=st.sampled_from(list(PACKED)), data=st.data())
def test_a_truncated_or_flipped_archive_never_passes_for_whole(
    tmp_path_factory: pytest.TempPathFactory, ending: str, data: st.DataObject
) -> None:
    packed = PACKED[ending]
    path = tmp_path_factory.mktemp("packed") / f"a.jsonl{ending}"
    path.write_bytes(packed[: data.draw(st.integers(1, len(packed) - 1))])
    cut = read_or_told(path, "jsonl")
    # Between the two members of the .bz2 a cut leaves a whole archive of the first half.
    assert cut is None or (ending == ".bz2" and len(cut) >= 19)
    bit = data.draw(st.integers(0, len(packed) * 8 - 1))
    flipped = bytearray(packed)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    found = read_or_told(path, "jsonl")
    # A flip may hit a name or a time in the header, which carry nothing; any other damage fails a checksum.
    assert found is None or len(found) == 40


def parquet_bytes(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=10)
    return sink.getvalue()


PARQUET = parquet_bytes(text=[f"Document {number} of a few" for number in range(30)], number=list(range(30)))


def test_a_damaged_parquet_file_is_refused_or_read(tmp_path: Path) -> None:
    refused: list[bool] = []

    @settings(max_examples=250, deadline=None)
    @given(flips=st.lists(st.integers(0, len(PARQUET) * 8 - 1), min_size=1, max_size=6), cut=st.integers(0, 400))
    def check(flips: list[int], cut: int) -> None:
        damaged = bytearray(PARQUET)
        for bit in flips:
            damaged[bit // 8] ^= 1 << bit % 8
        path = tmp_path / "a.parquet"
        path.write_bytes(damaged)
        refused.append(read_or_told(path, "parquet") is None)
        path.write_bytes(PARQUET[: len(PARQUET) - 1 - cut])
        assert read_or_told(path, "parquet") is None

    check()
    assert sum(refused) > 10
    assert not all(refused)


def test_a_parquet_column_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(PARQUET.replace(b"number", b"numb\xe5r"))
    assert read_or_told(path, "parquet") is None


def test_a_parquet_string_that_is_not_utf8_costs_itself_only(tmp_path: Path) -> None:
    strings = pa.array([b"good", b"bad \xff", b"fine", None], pa.binary())
    invalid = pa.Array.from_buffers(pa.string(), 4, strings.buffers())
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_bytes(text=invalid))
    found, counts = read(path, "parquet")
    assert (found, counts.bad_lines) == (["good", "fine"], 2)


def test_parquet_without_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for columns in ({"body": ["a"]}, {"text": [1]}, {"text": [["a"]]}, {"text": [b"a"]}, {"text": [None]}):
        path.write_bytes(parquet_bytes(**columns))
        assert read_or_told(path, "parquet") is None
    path.write_bytes(parquet_bytes(text=pa.array(["a", None], pa.large_string())))
    found, counts = read(path, "parquet")
    assert (found, counts.bad_lines) == (["a"], 1)


def test_a_data_set_with_damaged_offsets_is_one_line_and_no_crash(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["first", "other", "third"]}).save_to_disk(tmp_path / "d")
    (path,) = (tmp_path / "d").glob("*.arrow")
    source = SourceConfig(kind="datasets", name=str(tmp_path / "d"))
    (task,) = plan_tasks([source], find_inputs([source]), 1 << 20)
    assert list(read_task(task, source, ReadCounts())) == ["first", "other", "third"]
    offsets = struct.pack("<4i", 0, 5, 10, 15)
    data = path.read_bytes()
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, struct.pack("<4i", 0, 5, 1 << 29, 15)))
    _open.cache_clear()
    with pytest.raises(UserError, match="cannot read") as raised:
        list(read_task(task, source, ReadCounts()))
    assert str(tmp_path / "d") in str(raised.value)


DUMP = (HEAD + page("One", "Text of [[one]]." * 5) + page("Two", "{{x}} Text of ''two''.") + TAIL).encode()


def test_a_damaged_dump_is_refused_or_read(tmp_path: Path) -> None:
    refused: list[bool] = []

    @settings(max_examples=150, deadline=None)
    @given(
        place=st.integers(0, len(DUMP)),
        length=st.integers(0, 40),
        inserted=st.one_of(
            st.binary(max_size=20), st.sampled_from([b"<page>", b"</page>", b"&x;", b"<!--", b"]]>", b"<text>"])
        ),
    )
    @example(place=0, length=0, inserted=b"")
    def check(place: int, length: int, inserted: bytes) -> None:
        path = tmp_path / "a.xml"
        path.write_bytes(DUMP[:place] + inserted + DUMP[place + length :])
        refused.append(read_or_told(path, "wikipedia") is None)

    check()
    assert sum(refused) > 10
    assert not all(refused)


def test_entities_that_explode_are_no_danger(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    path = tmp_path / "a.xml"
    path.write_text(
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{levels}]>' + HEAD + page("A", "MARK").replace("MARK", "&l11;") + TAIL
    )
    assert read_or_told(path, "wikipedia") is None
