"""What a file is, is read off its first bytes: marked encodings are text, other formats are refused by name."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
import zstandard

from data_pipeline.cli import main
from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.read.content import HEAD_BYTES
from data_pipeline.read.documents import check_contents, read_task
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.tasks import ReadCounts, plan_tasks

TEXTS = [f"Text {n}: grüße, 東京 \U0001f600 and more." for n in range(40)]
MARKS = {
    "utf-8-sig": b"",
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def read(path: Path, kind: Any, task_bytes: int = 1 << 20, **more: Any) -> tuple[list[str], ReadCounts]:
    counts = ReadCounts()
    source = SourceConfig(kind=kind, paths=[str(path)], **more)
    tasks = plan_tasks([source], find_inputs([source]), task_bytes)
    return [text for task in tasks for text in read_task(task, source, counts)], counts


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, bz2.compress])
@pytest.mark.parametrize("task_bytes", [50, 1 << 20])
def test_a_byte_order_mark_is_honoured(
    tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes], task_bytes: int
) -> None:
    ending = {bytes: "", gzip.compress: ".gz", zstandard.compress: ".zst", bz2.compress: ".bz2"}[pack]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\r\n" for text in TEXTS)
    for kind, text in (("jsonl", lines), ("text", "\r\n\r\n".join(TEXTS))):
        path = tmp_path / f"a.{kind}{ending}"
        path.write_bytes(pack(MARKS[encoding] + text.encode(encoding)))
        found, counts = read(path, kind, task_bytes)
        assert [document.strip() for document in found] == TEXTS
        assert counts.bad_lines == 0
    if ending == "":
        path.write_bytes(MARKS[encoding] + "\n".join(TEXTS).encode(encoding))
        for documents, expected in (("line", TEXTS), ("file", ["\n".join(TEXTS)])):
            assert [text.strip("\n") for text in read(path, "text", task_bytes, documents=documents)[0]] == expected
        path.write_bytes(MARKS[encoding] or codecs.BOM_UTF8)
        for documents in ("line", "blank_line", "file"):
            assert read(path, "text", task_bytes, documents=documents)[0] in ([], [""])


def test_broken_utf16_costs_its_line_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    good = "one\n".encode("utf-16-le")
    path.write_bytes(codecs.BOM_UTF16_LE + good + b"\x00\xd8a\x00\n\x00" + good + b"x")
    found, counts = read(path, "text", documents="line")
    assert [text.strip() for text in found] == ["one", "one"]
    assert counts.left_out[str(path), "not_utf8"][0] == 2


def tar(*names: str, kind: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=kind, format=format) as archive:  # type: ignore[call-overload]
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1000
            archive.addfile(member, io.BytesIO(b"text in an archive\n" * 100))
    return sink.getvalue()


def zipped(*names: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in names:
            archive.writestr(name, "text in an archive\n" * 50)
    return sink.getvalue()


def table(write: Callable[[pa.Table, io.BytesIO], object]) -> bytes:
    sink = io.BytesIO()
    write(pa.table({"text": TEXTS}), sink)
    return sink.getvalue()


def arrow(new: Callable[..., Any]) -> bytes:
    data = pa.table({"text": TEXTS})
    sink = io.BytesIO()
    with new(sink, data.schema) as writer:
        writer.write_table(data)
    return sink.getvalue()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "db") as link:
        link.execute("create table t (x text)")
    return (folder / "db").read_bytes()


def array() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.arange(100))
    return sink.getvalue()


PROSE = "plain text without a mark, which a tool of another system wrote\n" * 9
FOREIGN: dict[str, tuple[bytes, str]] = {
    "tar": (tar("a.txt", "b.txt"), "a tar archive"),
    "old tar": (tar("a.txt", format=tarfile.GNU_FORMAT).replace(b"ustar  \0", b"\0" * 8), "tar archive|NUL"),
    "tar.gz": (tar("a.txt", kind="w:gz"), r"a tar archive \(inside its compression\)"),
    "tgz": (tar("a.txt", kind="w:gz"), "a tar archive"),
    "tar.bz2": (tar("a.txt", kind="w:bz2"), "a tar archive"),
    "tar.zst": (zstandard.compress(tar("a.txt")), "a tar archive"),
    "tar.xz": (tar("a.txt", kind="w:xz"), "xz -d"),
    "zip": (zipped("a.txt"), "a zip archive"),
    "docx": (zipped("[Content_Types].xml", "word/document.xml"), "docx"),
    "txt.gz": (gzip.compress(zipped("a.txt")), r"a zip archive.*inside its compression"),
    "twice.gz": (gzip.compress(gzip.compress(PROSE.encode())), "compressed a second time, by gzip"),
    "zst.gz": (gzip.compress(zstandard.compress(PROSE.encode())), "compressed a second time, by zstd"),
    "xz": (lzma.compress(PROSE.encode()), "compressed by xz"),
    "lzma": (lzma.compress(PROSE.encode(), lzma.FORMAT_ALONE), "compressed by lzma"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(range(256)), "a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(range(256)), "a rar archive"),
    "lz4": (b"\x04\x22\x4d\x18\x64\x40\xa7" + PROSE.encode(), "compressed by lz4"),
    "pdf": (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "a PDF document"),
    "rtf": (b"{\\rtf1\\ansi text}", "an RTF document"),
    "doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an old Office document"),
    "parquet": (table(pq.write_table), "a Parquet file, not text: read it as kind parquet"),
    "arrow": (arrow(ipc.new_file), "an Arrow file"),
    "arrows": (arrow(ipc.new_stream), "an Arrow stream"),
    "orc": (table(orc.write_table), "an ORC file"),
    "pickle": (pickle.dumps(TEXTS), "a Python pickle"),
    "npy": (array(), "a NumPy array"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "an image"),
    "jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "an image"),
    "gif": (b"GIF89a\x01\x00\x01\x00\x80\x00\x00", "an image"),
    "warc": (b"WARC/1.0\r\nWARC-Type: warcinfo\r\n\r\n", "a web archive"),
    "exe": (b"\x7fELF\x02\x01\x01" + bytes(40), "a program"),
    "utf16le.txt": (PROSE.encode("utf-16-le"), "looks like UTF-16LE without a byte order mark.*iconv -f UTF-16LE"),
    "utf16be.txt": (PROSE.encode("utf-16-be"), "looks like UTF-16BE"),
    "russian.txt": (("Москва, и больше слов\n" * 9).encode("utf-16-le"), "looks like UTF-16LE"),
    "utf32.txt": (PROSE.encode("utf-32-le"), "looks like UTF-32LE"),
    "utf32be.txt": (PROSE.encode("utf-32-be"), "looks like UTF-32BE"),
    "nul.txt": (b"a\0" + b"word\0" * 50, "51 of its first 252 bytes are NUL"),
    "zeros.txt": (bytes(10000), f"{HEAD_BYTES:,} of its first {HEAD_BYTES:,} bytes are NUL"),
    "plain.gz": (PROSE.encode(), "ends in .gz, but its content is not compressed by gzip"),
    "plain.zst": (PROSE.encode(), "ends in .zst, but its content is not compressed by zstd"),
    "plain.bz2": (b"BZh9 is how such a file starts", "ends in .bz2, but"),
}


@pytest.mark.parametrize("name", [*FOREIGN, "db"])
def test_what_is_no_text_is_refused_by_name_before_anything_is_read(tmp_path: Path, name: str) -> None:
    if name == "db":
        data, expected = database(tmp_path), "an SQLite database"
    else:
        data, expected = FOREIGN[name]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"a.{name}"
    path.write_bytes(data)
    (tmp_path / "in" / "b.jsonl").write_text(json.dumps({"text": PROSE}) + "\n")
    for kind in ("text", "jsonl"):
        source = SourceConfig(kind=kind, paths=[str(tmp_path / "in")])  # type: ignore[arg-type]
        for act in (
            lambda source=source: check_contents([source], find_inputs([source])),
            lambda kind=kind: read(path, kind, 100),
        ):
            with pytest.raises(UserError, match=expected) as raised:
                act()
            assert str(path) in str(raised.value)
            assert "\n" not in str(raised.value)


def test_a_dump_in_an_archive_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("7z", "zip", "tar.gz", "xz"):
        path = tmp_path / f"dump.xml.{name}"
        path.write_bytes(FOREIGN[name][0])
        with pytest.raises(UserError, match=FOREIGN[name][1]):
            read(path, "wikipedia")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bz2.compress])
@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz", "a.zst", "a.bz2"])
def test_a_compression_is_known_by_the_content_whatever_the_ending(
    tmp_path: Path, pack: Callable[[bytes], bytes], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(pack("\n\n".join(TEXTS).encode()))
    assert [text.strip() for text in read(path, "text", 100)[0]] == TEXTS


@pytest.mark.parametrize(
    "text",
    [
        "BZh is no archive",
        "PAR1 is a name",
        "GIF89a is a format",
        "ORC\nis a word",
        "070701 is a date",
        "GGUF, too",
        "MZ",
        "PK",
        "ID3 is a format",
        "RIFF",
        "%PDF",
        "{\\",
        "[",
        "WARC",
        "LZIP",
        "a\0" + "b" * 300,
        "Tab\tand\x0cfeed",
    ],
)
def test_text_that_begins_like_another_format_is_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert read(path, "text")[0] == [text]


def test_latin_1_is_counted_as_not_utf8_and_refused_above_a_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes("\n".join(f"Größe {n} über alles" for n in range(30)).encode("latin-1"))
    sources = f'[{{"paths": ["{tmp_path}/a.txt"], "documents": "line"}}]'
    assert main(["build", "--out", str(tmp_path / "s"), "--sources", sources, "--workers", "1"]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert "no document is left" in shown
    assert f"{tmp_path}/a.txt: 30 not UTF-8" in shown or "a.txt: 30 not UTF-8" in shown


def test_files_of_another_kind_that_are_read_as_text_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "three"}\n'))
    (tmp_path / "c.xml").write_text("<mediawiki xmlns='x'>\n")
    (tmp_path / "d.txt").write_text("{ a brace }\n")
    source = SourceConfig(paths=[str(tmp_path)])
    lines: list[str] = []
    check_contents([source], find_inputs([source]), lines.append)
    assert lines == [
        f"warning: sources[0]: 2 files read as text, such as {tmp_path}/a.jsonl, with the first line of kind jsonl",
        f"warning: sources[0]: 1 file read as text, such as {tmp_path}/c.xml, with the first line of kind wikipedia",
    ]
