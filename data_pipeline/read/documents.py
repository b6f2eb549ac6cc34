"""Reading documents out of one task's pieces, exactly once over all tasks."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

import orjson
import pyarrow as pa

from data_pipeline.config import SourceConfig, SourceKind
from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store
from data_pipeline.progress import counted
from data_pipeline.read.content import (
    HEAD_BYTES,
    Transcoded,
    compression_in,
    encoding_of,
    other_kind,
    refuse_foreign,
)
from data_pipeline.read.hub import dataset_texts
from data_pipeline.read.inputs import Input, compression_of
from data_pipeline.read.parquet import open_parquet, values
from data_pipeline.read.passed_over import shown
from data_pipeline.read.reasons import kind_of
from data_pipeline.read.remote_file import RemoteFile
from data_pipeline.read.tasks import Piece, ReadCounts, Task
from data_pipeline.read.wikipedia import articles
from data_pipeline.read.zstd import ZstdFile

# A longer line or document is not held in memory: it is skipped and counted as too long.
MAX_RAW_BYTES = 64 << 20
_PARQUET_BATCH_ROWS = 1024
_BUFFER = 1 << 20
_OPENED: tuple[SourceKind, ...] = ("text", "jsonl", "wikipedia")
_OPENED_AT_ONCE = 8
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON_BLANKS = " \t\r\n"
# Of a line, and of the fields of a record, in messages.
_EXCERPT = 60
_NAMES = 10


def read_task(task: Task, source: SourceConfig, counts: ReadCounts) -> Iterator[str]:
    """The raw documents of a task, in order.

    Raises:
        UserError: an input vanished, is truncated, is not text or can't be read.
    """
    for piece in task.pieces:
        counts.location = piece.location
        with _reported(piece.location):
            for text in _read_piece(piece, source, counts):
                counts.documents_read += 1
                yield text


def check_contents(
    sources: Sequence[SourceConfig], inputs: Sequence[Input], note: Callable[[str], None] = lambda line: None
) -> None:
    """Look at the first bytes of files on disk before anything is read, so that no build fails late for one of them.

    Files in an object store are looked at when they are read.

    Args:
        note: gets a line where files that are read as text look like another kind.

    Raises:
        UserError: a file can't be opened, or is not text.
    """

    def look(entry: Input) -> str | None:
        kind = sources[entry.source].kind
        if kind not in _OPENED or not entry.size or is_object_store(entry.location):
            return None
        with _reported(entry.location), open_text(Piece(entry.location, 0, entry.size), kind) as found:
            return other_kind(found[0].peek(HEAD_BYTES)[:HEAD_BYTES]) if found and kind == "text" else None

    others: dict[tuple[int, str], list[str]] = {}
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as threads:
        for entry, other in zip(inputs, threads.map(look, inputs), strict=True):
            if other is not None:
                others.setdefault((entry.source, other), []).append(entry.location)
    for (source, other), names in others.items():
        note(
            f"warning: sources[{source}]: {counted(len(names), 'file')} read as text, such as {shown(names[0])}, "
            f"with the first line of kind {other}"
        )


@contextlib.contextmanager
def _reported(location: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {location}: {error}; restore the file or leave it out") from error


def _read_piece(piece: Piece, source: SourceConfig, counts: ReadCounts) -> Iterator[str]:
    if source.kind == "datasets":
        for row, value in enumerate(dataset_texts(source, piece.begin, piece.end), piece.begin):
            yield from _field_text(value, f"row {row:,}", counts)
    elif source.kind == "parquet":
        with open_parquet(piece.location) as file:
            groups = list(range(piece.begin, piece.end))
            row = 0
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, row_groups=groups, columns=[source.field]):
                for value in values(batch.column(source.field)):
                    yield from _field_text(value, f"row {row:,} of row group {piece.begin:,}", counts)
                    row += 1
    else:
        with open_text(piece, source.kind) as found:
            if found is None:
                return
            file, begin, end = found
            if source.kind == "jsonl":
                yield from _json_lines(file, begin, end, source.field, counts)
            elif source.kind == "wikipedia":
                yield from articles(file, piece.location, counts)
            elif source.documents == "line":
                yield from _line_documents(file, begin, end, counts)
            elif source.documents == "blank_line":
                yield from _blank_line_documents(file, begin, end, counts)
            else:
                yield from _file_document(file, counts)


@contextlib.contextmanager
def open_text(piece: Piece, kind: SourceKind) -> Iterator[tuple[io.BufferedReader, int, int] | None]:
    """A piece's file, local or in an object store, decompressed and in UTF-8, and the range of it to read.

    The first bytes decide on both. A file that can't be entered in the middle is read whole by the piece that starts at
    its start; None to the others.

    Raises:
        UserError: the file is an archive, a document or other data that is not text.
    """
    location = piece.location
    with _raw(piece) as raw:
        head = _head(raw, piece.begin)
        compression = compression_in(head, location, compression_of(location))
        if compression is None:
            file: io.BufferedReader = io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER)
            whole = False
        elif piece.begin:
            yield None
            return
        else:
            stream: Any
            if compression == "zstd":
                stream = ZstdFile(raw)
            else:
                # Arrow's stream reads concatenated members and, unlike some readers, refuses truncated ones.
                stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)
            file, whole = io.BufferedReader(cast(io.RawIOBase, stream), _BUFFER), True
            head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        refuse_foreign(head, location, compression is not None)
        # XML names its own encoding.
        encoding, mark = ("utf-8", 0) if kind == "wikipedia" else encoding_of(head, location)
        if encoding != "utf-8":
            if piece.begin:
                yield None
                return
            file.read(mark)
            file, whole = io.BufferedReader(Transcoded(file, encoding), _BUFFER), True
        yield (file, 0, 1 << 62) if whole else (file, piece.begin, piece.end)


def _raw(piece: Piece) -> RemoteFile | io.FileIO:
    if is_object_store(piece.location):
        return RemoteFile(piece.location, piece.end)
    # A pipe that has taken the place of a file would be waited for without end.
    return io.FileIO(os.open(piece.location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _head(raw: RemoteFile | io.FileIO, begin: int) -> bytes:
    if begin:
        # What lies around it will not be read.
        return raw.head(HEAD_BYTES) if isinstance(raw, RemoteFile) else os.pread(raw.fileno(), HEAD_BYTES, 0)
    head = b""
    while len(head) < HEAD_BYTES and (more := raw.read(HEAD_BYTES - len(head))):
        head += more
    raw.seek(0)
    return head


def _field_text(value: object, where: str, counts: ReadCounts) -> Iterator[str]:
    counts.records += 1
    if not isinstance(value, str):
        counts.leave_out("not_text", f"{where}, which has {kind_of(value)}")
        return
    counts.bytes_read += len(value.encode("utf-8", "surrogatepass"))
    if _encodable(value):
        yield value
    else:
        counts.leave_out("half_pair", where)


def _encodable(text: str) -> bool:
    # JSON can spell half a surrogate pair, which is not a character and has no UTF-8.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _decode(data: bytes, counts: ReadCounts) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        counts.leave_out("not_utf8", _excerpt(data))
        return None


def _excerpt(data: bytes) -> str:
    """The start of a line, for messages."""
    text = data[:_EXCERPT].decode("utf-8", "backslashreplace").strip()
    return "".join(c if c.isprintable() else " " for c in text) + ("..." if len(data) > _EXCERPT else "")


def lines_between(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines from the first one that starts at or after ``begin``, with their offsets, to the end of the file.

    The caller stops; ``end`` only bounds the skip at the start. A line above ``MAX_RAW_BYTES`` comes as None.
    """
    position = begin
    if begin > 0:
        # The line around begin belongs to the range before, unless it starts exactly there.
        file.seek(begin - 1)
        position = begin - 1
        while position < end:
            skipped = file.readline(_BUFFER)
            position += len(skipped)
            if not skipped:
                return
            if skipped.endswith(b"\n"):
                break
        else:
            return
    while line := file.readline(MAX_RAW_BYTES):
        start = position
        position += len(line)
        if len(line) == MAX_RAW_BYTES and not line.endswith(b"\n"):
            while rest := file.readline(_BUFFER):
                position += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield start, None
        else:
            yield start, line


def _owned_lines(file: BinaryIO, begin: int, end: int, counts: ReadCounts) -> Iterator[bytes]:
    for start, line in lines_between(file, begin, end):
        if start >= end:
            return
        if line is None:
            counts.records += 1
            counts.leave_out("oversized", f"byte {start:,}")
        else:
            counts.bytes_read += len(line)
            if start == 0:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line and not line.isspace():
                counts.records += 1
                yield line


def _line_documents(file: BinaryIO, begin: int, end: int, counts: ReadCounts) -> Iterator[str]:
    for line in _owned_lines(file, begin, end, counts):
        text = _decode(line, counts)
        if text is not None:
            yield text


def _json_lines(file: BinaryIO, begin: int, end: int, field: str, counts: ReadCounts) -> Iterator[str]:
    decode = json.JSONDecoder().raw_decode
    for line in _owned_lines(file, begin, end, counts):
        # What orjson takes the other parser takes too, with the same texts, in twice the time. Whatever it does not
        # take, half of a surrogate pair or a byte order mark, and what is wrong with a record, the other one finds out.
        with contextlib.suppress(orjson.JSONDecodeError):
            record = orjson.loads(line)
            if isinstance(record, dict) and isinstance(text := record.get(field), str):
                yield text
                continue
        try:
            record, stop = decode(source := line.removeprefix(_BYTE_ORDER_MARK).decode("utf-8").strip(_JSON_BLANKS))
        except UnicodeDecodeError:
            counts.leave_out("not_utf8", _excerpt(line))
            continue
        except (ValueError, RecursionError):
            counts.leave_out("not_json", _excerpt(line))
            continue
        text = record.get(field) if stop == len(source) and isinstance(record, dict) else None
        # Without an escape there is no way to spell half a surrogate pair in UTF-8.
        if isinstance(text, str) and (b"\\u" not in line or _encodable(text)):
            yield text
        elif stop != len(source):
            counts.leave_out("not_json", _excerpt(line))
        elif not isinstance(record, dict):
            counts.leave_out("not_an_object", _excerpt(line))
        elif field not in record:
            counts.leave_out("no_field", f"a record that has {_names(record)}")
        elif not isinstance(text, str):
            counts.leave_out("not_text", f"a record where it is {kind_of(text)}")
        else:
            counts.leave_out("half_pair", _excerpt(line))


def _names(record: dict[str, object]) -> str:
    """The fields that a record has, for messages."""
    names = [_excerpt(name.encode("utf-8", "surrogatepass")) for name in list(record)[:_NAMES]]
    return (", ".join(names) or "none") + (", ..." if len(record) > _NAMES else "")


def _blank_line_documents(file: BinaryIO, begin: int, end: int, counts: ReadCounts) -> Iterator[str]:
    """Documents whose preceding blank line (or the file's start) lies in [begin, end).

    Owning a document through the separator before it lets a range decide alone, without looking back.
    """
    owned = begin == 0
    parts: list[bytes] = []
    size = 0
    for start, line in lines_between(file, begin, end):
        if start == 0 and line is not None and line.startswith(_BYTE_ORDER_MARK):
            line = line.removeprefix(_BYTE_ORDER_MARK)
            counts.bytes_read += len(_BYTE_ORDER_MARK)
        blank = line is not None and (not line or line.isspace())
        if blank:
            yield from _flush(parts, size, counts)
            parts, size = [], 0
            if start >= end:
                return
            owned = True
            counts.bytes_read += len(line or b"")
        elif owned:
            size += MAX_RAW_BYTES + 1 if line is None else len(line)
            if line is not None and size <= MAX_RAW_BYTES:
                parts.append(line)
            else:
                parts.clear()
        elif start >= end:
            return
    yield from _flush(parts, size, counts)


def _flush(parts: list[bytes], size: int, counts: ReadCounts) -> Iterator[str]:
    if size > MAX_RAW_BYTES:
        counts.records += 1
        counts.leave_out("oversized", f"a document of more than {MAX_RAW_BYTES >> 20} MiB")
        return
    counts.bytes_read += size
    counts.records += len(parts)
    # One broken line costs that line, not the whole document.
    decoded = [text for part in parts if (text := _decode(part, counts)) is not None]
    if decoded:
        yield "".join(decoded)


def _file_document(file: BinaryIO, counts: ReadCounts) -> Iterator[str]:
    data = file.read(MAX_RAW_BYTES + 1)
    if data.startswith(_BYTE_ORDER_MARK):
        data = data.removeprefix(_BYTE_ORDER_MARK)
        counts.bytes_read += len(_BYTE_ORDER_MARK)
    yield from _flush(data.splitlines(keepends=True), len(data), counts)
