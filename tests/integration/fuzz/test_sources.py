"""Sources of any bytes: a build gives a store or one line, whatever the kind of source and the form of the file."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from data_pipeline.cli import main
from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.read.documents import check_contents, read_task
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.tasks import ReadCounts, plan_tasks
from data_pipeline.store.left_out import load_left_out
from tests.support.instruments.fuzzing import explore
from tests.unit.data_pipeline.read.test_wikipedia import HEAD, TAIL, page

pytestmark = pytest.mark.slow

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "id", ""]), inner, max_size=3),
    max_leaves=5,
)
PROSE = st.text(st.characters(codec="utf-8"), max_size=60) | st.just("The ship left the harbour in winter. ")
MARKS = st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\0\0\xfe\xff"])
MAGICS = st.sampled_from(
    [
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd",
        b"BZh91AY&SY",
        b"%PDF-1.4",
        b"PAR1",
        b"ARROW1",
        b"\xfd7zXZ\0",
        b"7z\xbc\xaf\x27\x1c",
    ]
)

# How a saved data set of one file describes itself.
SAVED = {
    "_data_files": [{"filename": "data.arrow"}],
    "_fingerprint": "f",
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}


def _plain(text: str) -> str:
    """Text that XML can hold."""
    return "".join(c for c in text if c.isprintable() and c not in "<&") or "text"


def json_line(value: object) -> bytes:
    return json.dumps(value).encode()


LINES: dict[str, SearchStrategy[bytes]] = {
    "text": PROSE.map(str.encode) | st.binary(max_size=40),
    "jsonl": st.one_of(
        PROSE.map(lambda text: json_line({"text": text})), VALUES.map(json_line), st.binary(max_size=40), MAGICS
    ),
    "wikipedia": st.one_of(
        *[PROSE.map(lambda text: page("Title", _plain(text)).encode())] * 6,
        st.sampled_from(["{{x|", "[[a|b]]", "{|\n|}", "<!--"]).map(lambda odd: page("Title", _plain(odd)).encode()),
        st.sampled_from([HEAD, TAIL, "<page>", "</page>", "&x;"]).map(str.encode),
        st.binary(max_size=40),
    ),
}


def tables(values: list[object]) -> bytes:
    """Parquet of one column, of the type that the values make, or of strings if they make none."""
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        column = pa.array([str(value).encode("utf-8", "replace").decode() for value in values])
    sink = io.BytesIO()
    with contextlib.suppress(pa.ArrowException):
        pq.write_table(pa.table({"text": column}), sink, row_group_size=3)
    return sink.getvalue()


def data_set(values: list[object]) -> bytes:
    """The Arrow file of a saved data set."""
    column = pa.array([value if isinstance(value, str) else None for value in values], pa.string())
    sink = io.BytesIO()
    data = pa.table({"text": column})
    with ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data)
    return sink.getvalue()


def texts() -> SearchStrategy[list[object]]:
    plain = st.text(st.characters(codec="utf-8"), max_size=30)
    return st.lists(plain, min_size=1, max_size=12) | st.lists(VALUES, min_size=1, max_size=8)


def whole(kind: str) -> SearchStrategy[bytes]:
    """A whole file of a kind."""
    if kind == "parquet":
        return texts().map(tables)
    if kind == "datasets":
        return texts().map(data_set)
    joined = st.lists(LINES[kind], max_size=12).flatmap(
        lambda lines: st.sampled_from([b"\n", b"\n\n", b"\r\n"]).map(lambda end: end.join(lines))
    )
    if kind == "wikipedia":
        return joined.map(lambda body: HEAD.encode() + body + TAIL.encode())
    return st.tuples(MARKS, joined | st.binary(max_size=200)).map(lambda parts: parts[0] + parts[1])


@st.composite
def inputs(draw: Callable[[SearchStrategy[object]], object], kind: str) -> tuple[bytes, str, dict[str, str]]:
    """A file's bytes, perhaps compressed and perhaps damaged, its ending, and settings of the source."""
    data = draw(whole(kind))
    assert isinstance(data, bytes)
    packs = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}
    ending = draw(st.sampled_from(list(packs))) if kind in LINES else ""
    pack = draw(st.sampled_from([packs[str(ending)]] * 8 + list(packs.values()))) if kind in LINES else bytes
    data = pack(data)  # type: ignore[operator]
    if draw(st.integers(0, 2)) == 0 and data:
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, len(data)))  # type: ignore[arg-type]
        data = data[:begin] + draw(st.binary(max_size=8)) + data[end:]  # type: ignore[operator,misc]
    more = {"documents": draw(st.sampled_from(["line", "blank_line", "file"]))} if kind == "text" else {}
    return data, str(ending), more  # type: ignore[return-value]


def _refused(error: UserError, name: str) -> str:
    assert "\n" not in str(error)
    assert name in str(error)
    return "refused"


@pytest.fixture
def folder() -> Iterator[Path]:
    # In memory where there is such a place, since every input is written.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@pytest.mark.parametrize("kind", ["text", "jsonl", "wikipedia", "parquet", "datasets"])
def test_any_bytes_give_documents_or_one_line(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    number = 0

    def answer(given: tuple[bytes, str, dict[str, str]]) -> str:
        nonlocal number
        number += 1
        data, ending, more = given
        path = folder / f"a{number}{ending}"
        if kind == "datasets":
            path.mkdir()
            (path / "data.arrow").write_bytes(data)
            (path / "state.json").write_text(json.dumps(SAVED))
            (path / "dataset_info.json").write_text("{}")
            source = SourceConfig(kind="datasets", name=str(path))
        else:
            path.write_bytes(data)
            source = SourceConfig(kind=kind, paths=[str(path)], **more)  # type: ignore[arg-type]
        counts = ReadCounts()
        try:
            found = find_inputs([source])
            check_contents([source], found)
            read = [text for task in plan_tasks([source], found, 64) for text in read_task(task, source, counts)]
        except UserError as error:
            return _refused(error, path.name)
        finally:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for text in read:
            text.encode("utf-8")
        lost = sum(count for count, _ in counts.left_out.values())
        assert lost == counts.bad_lines + counts.oversized
        assert counts.records >= lost
        return "some left out" if lost and read else "all left out" if lost else "read" if read else "empty"

    counted = explore(inputs(kind), answer, examples=60 if kind in LINES else 30)
    assert counted["read"] + counted["some left out"] > 0
    assert counted["refused"] + counted["some left out"] + counted["all left out"] > 0


def test_a_whole_build_of_any_files_ends_with_a_store_or_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = st.sampled_from(list(LINES)[:2]).flatmap(inputs)
    files = st.tuples(st.sampled_from(["text", "jsonl"]), st.lists(one, min_size=1, max_size=2))

    def answer(given: tuple[str, list[tuple[bytes, str, dict[str, str]]]]) -> str:
        kind, several = given
        for name in ("in", "s"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "in").mkdir()
        good = (json.dumps({"text": f"The ship left the harbour on day {n}."}) + "\n" for n in range(200))
        (folder / "in" / "good").write_text("".join(good))
        for index, (data, ending, _) in enumerate(several):
            (folder / "in" / f"{index}{ending}").write_bytes(data)
        options = ["--out", str(folder / "s"), "--workers", "1", "--tokenizer.vocab_size", "64", "--held_out", "0"]
        options += ["--sources", json.dumps([{"kind": kind, "paths": [str(folder / "in")]}])]
        options += ["--tokenizer.min_frequency", "1"]
        code = main(["build", *options])
        errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        if code:
            assert (code, len(errors)) == (2, 1)
            assert not (folder / "s" / "manifest.json").exists()
            return "refused"
        assert not errors
        return "built, some left out" if load_left_out(open_place(folder / "s")) else "built"

    counted = explore(files, answer, examples=12)
    assert counted["refused"] > 0
    assert counted["built"] + counted["built, some left out"] > 0
