"""Sources in an object store give what the same files on disk give, however the work is divided."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.place import Entry
from data_pipeline.read import remote_file
from data_pipeline.read.documents import ReadCounts, read_task
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.remote_file import RemoteFile
from data_pipeline.read.tasks import plan_tasks
from tests.support.fixtures.s3 import s3, s3_server

__all__ = ["s3", "s3_server"]

TEXTS = ["First document, with two\nlines.", "Second: grüße, 東京.", "Third.", "Fourth one."]


class DistantFolder(FolderPlace):
    """A folder that, like an object store, has no folders and is only read by ranges; it notes which."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ranges: list[tuple[int, int]] = []

    def stat(self, name: str) -> Entry | None:
        return super().stat(name) if self.local(name).is_file() else None

    def read_range(self, name: str, begin: int, end: int) -> bytes:
        self.ranges.append((begin, end))
        return super().read_range(name, begin, end)


@pytest.fixture
def distant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DistantFolder:
    return serve(tmp_path / "bucket", monkeypatch)


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> DistantFolder:
    folder.mkdir()
    place = DistantFolder(folder)
    monkeypatch.setattr(remote_file, "_place", lambda bucket: place)
    return place


def read_all(task_bytes: int, source: SourceConfig) -> tuple[list[str], ReadCounts]:
    counts = ReadCounts()
    found: list[str] = []
    for task in plan_tasks([source], find_inputs([source]), task_bytes):
        found.extend(read_task(task, source, counts))
    return found, counts


def test_a_bucket_gives_what_a_folder_gives(s3: str, tmp_path: Path) -> None:
    from data_pipeline.places.open import open_place

    lines = "".join(json.dumps({"text": text * 300}) + "\n" for text in TEXTS * 50).encode()
    files = {
        "a.jsonl": lines,
        "b.jsonl.gz": gzip.compress(lines),
        "deep/er/c.jsonl.bz2": bz2.compress(lines) * 2,
        "deep/.hidden.jsonl": b"no json",
    }
    table = pa.table({"text": TEXTS * 100})
    place = open_place(f"{s3}/raw")
    for name, data in files.items():
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(data)
        place.put(name, data)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=50)
    place.put_file("t.parquet", tmp_path / "t.parquet")
    for task_bytes in (20_000, 1 << 20):
        here = read_all(task_bytes, SourceConfig(kind="jsonl", paths=[str(tmp_path / "raw")]))
        assert here == read_all(task_bytes, SourceConfig(kind="jsonl", paths=[f"{s3}/raw/**/*.json*"]))
        assert here[0] == [text * 300 for text in TEXTS * 200]
    source = SourceConfig(kind="parquet", paths=[f"{s3}/raw/t.parquet"])
    assert len(plan_tasks([source], find_inputs([source]), 1)) == 8
    assert read_all(1, source)[0] == TEXTS * 100

    before = find_inputs([SourceConfig(kind="jsonl", paths=[f"{s3}/raw/a.jsonl"])])[0]
    place.put("a.jsonl", lines.replace(b"Third", b"Other"))
    after = find_inputs([SourceConfig(kind="jsonl", paths=[f"{s3}/raw/a.jsonl"])])[0]
    assert (before.name, before.size) == (after.name, after.size) == ("a.jsonl", len(lines))
    assert before.identity != after.identity
    with pytest.raises(UserError, match="matches no file"):
        find_inputs([SourceConfig(kind="jsonl", paths=[f"{s3}/nothing/*.jsonl"])])
    with pytest.raises(UserError, match="no-such-bucket"):
        find_inputs([SourceConfig(kind="jsonl", paths=["s3://no-such-bucket/x/"])])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.jsonl"]),
        ("b/", ["b/c.txt", "b/d/e.txt", "b/d/f.jsonl"]),
        ("b", ["b/c.txt", "b/d/e.txt", "b/d/f.jsonl"]),
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt"]),
        ("b/*/*", ["b/d/e.txt", "b/d/f.jsonl"]),
        ("**/*.txt", ["a.txt", "b/c.txt", "b/d/e.txt"]),
        ("b/**/[ef].*", ["b/d/e.txt", "b/d/f.jsonl"]),
        ("b/**", ["b/c.txt", "b/d/e.txt", "b/d/f.jsonl"]),
        (".h/*", [".h/x.txt"]),
        ("?.tx", []),
    ],
)
def test_keys_prefixes_and_globs_find_what_they_find_on_disk(
    distant: DistantFolder, pattern: str, expected: list[str]
) -> None:
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", "b/d/f.jsonl", ".h/x.txt", "b/.i.txt"):
        distant.put(name, b"text\n")
    there = SourceConfig(paths=[f"s3://bucket/{pattern}"])
    here = SourceConfig(paths=[f"{distant.path}/{pattern}"])
    if not expected:
        for source in (there, here):
            with pytest.raises(UserError, match="matches no file"):
                find_inputs([source])
        return
    assert [entry.location for entry in find_inputs([there])] == [f"s3://bucket/{name}" for name in expected]
    assert sorted(entry.location for entry in find_inputs([here])) == [f"{distant.path}/{name}" for name in expected]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x[1]", ["x[1]/a.txt", "x[1]/b[2].txt"]),
        ("x[1]/", ["x[1]/a.txt", "x[1]/b[2].txt"]),
        ("x[1]/*.txt", ["x[1]/a.txt", "x[1]/b[2].txt"]),
        ("x[1]/b[2].txt", ["x[1]/b[2].txt"]),
        ("x[1]/?.txt", ["x[1]/a.txt"]),
        ("x[12]/*.txt", ["x1/c.txt"]),
        ("*/c.txt", ["x1/c.txt"]),
        ("u*v", ["u*v/d.txt"]),
        ("u*v/**", ["u*v/d.txt"]),
        ("#%41 +.txt", ["#%41 +.txt"]),
    ],
)
def test_what_exists_as_it_is_named_is_no_pattern(distant: DistantFolder, path: str, expected: list[str]) -> None:
    for name in ("x[1]/a.txt", "x[1]/b[2].txt", "x1/c.txt", "u*v/d.txt", "uwv/e.txt", "#%41 +.txt"):
        distant.put(name, b"text\n")
    for place in ("s3://bucket", str(distant.path)):
        found = find_inputs([SourceConfig(paths=[f"{place}/{path}"])])
        assert [entry.location for entry in found] == [f"{place}/{name}" for name in expected]


parts = st.lists(
    st.sampled_from([b"a", b"bc", "é".encode(), b" ", b"\n", b"\n\n", b"\r\n", b'{"text": "x"}\n']), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(data=parts.map(b"".join), task_bytes=st.integers(1, 40), kind=st.sampled_from(["line", "blank_line", "jsonl"]))
def test_byte_ranges_own_every_document_once(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, task_bytes: int, kind: Any
) -> None:
    folder = tmp_path_factory.mktemp("distant")
    config = {"kind": "jsonl"} if kind == "jsonl" else {"kind": "text", "documents": kind}
    with pytest.MonkeyPatch.context() as patch:
        place = serve(folder / "bucket", patch)
        place.put("a", data)
        there = read_all(task_bytes, SourceConfig(paths=["s3://bucket/a"], **config))
    whole = read_all(1 << 20, SourceConfig(paths=[str(place.path / "a")], **config))
    assert there == whole


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=200),
    block=st.integers(1, 50),
    end=st.integers(0, 250),
    moves=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 80)), max_size=12),
)
def test_a_remote_file_reads_like_a_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, block: int, end: int, moves: list[tuple[int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        serve(tmp_path_factory.mktemp("distant") / "bucket", patch).put("a", data)
        with RemoteFile("s3://bucket/a", end, block) as file:
            for position, size in moves:
                file.seek(position)
                found = file.read(size)
                # A raw file may give less than it is asked for.
                while more := file.read(size - len(found)):
                    found += more
                assert found == data[position : position + size][: size or None]
                assert file.tell() == max(position, min(position + size, len(data)))


def test_a_range_is_fetched_once_in_blocks_and_little_behind_it(
    distant: DistantFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b"x" * 999 + b"\n"
    distant.put("a.txt", line * 20_000)
    source = SourceConfig(documents="line", paths=["s3://bucket/a.txt"])
    tasks = plan_tasks([source], find_inputs([source]), 10_000_000)
    assert len(list(read_task(tasks[0], source, ReadCounts()))) == 10_000
    fetched = sum(end - begin for begin, end in distant.ranges)
    assert 10_000_000 <= fetched < 10_000_000 + (2 << 20)
    assert len(distant.ranges) < 2 + 10_000_000 / (8 << 20) + 16


def test_a_file_that_shrinks_or_vanishes_is_one_line(distant: DistantFolder) -> None:
    distant.put("a.txt", b"line\n" * 1000)
    source = SourceConfig(documents="line", paths=["s3://bucket/a.txt"])
    tasks = plan_tasks([source], find_inputs([source]), 1 << 20)
    with RemoteFile("s3://bucket/a.txt") as file:
        distant.put("a.txt", b"line\n")
        with pytest.raises(UserError, match=r"s3://bucket/a\.txt became shorter"):
            file.read(100)
    distant.delete("a.txt")
    with pytest.raises(UserError, match=r"s3://bucket/a\.txt is missing"):
        list(read_task(tasks[0], source, ReadCounts()))


def test_first_bytes_decide_on_objects_too_whatever_the_division(distant: DistantFolder) -> None:
    text = "\n".join(TEXTS[2:] * 100)
    for name, data in (
        ("marked.txt", b"\xff\xfe" + text.encode("utf-16-le")),
        ("packed.txt", gzip.compress(text.encode())),
        ("plain.txt", text.encode()),
    ):
        distant.put(name, data)
        for task_bytes in (100, 1 << 20):
            found, counts = read_all(task_bytes, SourceConfig(documents="line", paths=[f"s3://bucket/{name}"]))
            assert [line.strip("\n") for line in found] == TEXTS[2:] * 100
            assert counts.records == 200
    distant.put("a.tar.gz", gzip.compress(b"%PDF-1.4 and more"))
    with pytest.raises(UserError, match=r"s3://bucket/a\.tar\.gz is a PDF document \(inside its compression\)"):
        read_all(100, SourceConfig(paths=["s3://bucket/a.tar.gz"]))


def test_a_prefix_that_exists_as_it_is_spelled_is_no_pattern(distant: DistantFolder) -> None:
    for name in ("data[1]/a.txt", "data[1]/s*/b.txt", "data1/c.txt"):
        distant.put(name, b"text\n")
    for pattern, expected in (
        ("data[1]/*.txt", "data[1]/a.txt"),
        ("data[1]/s*/*", "data[1]/s*/b.txt"),
        ("data[12]/*", "data1/c.txt"),
        ("data[1]/s*/", "data[1]/s*/b.txt"),
    ):
        found = find_inputs([SourceConfig(paths=[f"s3://bucket/{pattern}"])])
        assert [entry.location for entry in found] == [f"s3://bucket/{expected}"]
