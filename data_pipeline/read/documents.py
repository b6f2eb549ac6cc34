"""Reading documents out of one task's pieces, exactly once over all tasks."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store
from data_pipeline.read.hub import dataset_texts
from data_pipeline.read.inputs import compression_of
from data_pipeline.read.parquet import open_parquet
from data_pipeline.read.remote_file import RemoteFile
from data_pipeline.read.tasks import Piece, ReadCounts, Task
from data_pipeline.read.wikipedia import articles

# A longer line or document is not held in memory: it is skipped and counted as too long.
MAX_RAW_BYTES = 64 << 20
_PARQUET_BATCH_ROWS = 1024
_BUFFER = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_JSON_BLANKS = " \t\r\n"


def read_task(task: Task, source: SourceConfig, counts: ReadCounts) -> Iterator[str]:
    """The raw documents of a task, in order.

    Raises:
        UserError: an input vanished, is truncated or can't be read.
    """
    for piece in task.pieces:
        try:
            for text in _read_piece(piece, source, counts):
                counts.documents_read += 1
                yield text
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {piece.location}: {error}; restore the file or leave it out") from error


def _read_piece(piece: Piece, source: SourceConfig, counts: ReadCounts) -> Iterator[str]:
    if source.kind == "datasets":
        for value in dataset_texts(source, piece.begin, piece.end):
            yield from _field_text(value, counts)
    elif source.kind == "parquet":
        with open_parquet(piece.location) as file:
            groups = list(range(piece.begin, piece.end))
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, row_groups=groups, columns=[source.field]):
                for value in _values(batch.column(0)):
                    yield from _field_text(value, counts)
    else:
        with _open(piece) as file:
            begin, end = piece.begin, piece.end
            if compression_of(piece.location):
                begin, end = 0, 1 << 62
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
def _open(piece: Piece) -> Iterator[BinaryIO]:
    """A piece's file, decompressed, local or in an object store."""
    remote = is_object_store(piece.location)
    with RemoteFile(piece.location, piece.end) if remote else open(piece.location, "rb", buffering=0) as raw:
        compression = compression_of(piece.location)
        if compression is None:
            yield io.BufferedReader(raw, _BUFFER)
        else:
            # Arrow's stream reads concatenated members and, unlike some readers, refuses truncated ones.
            stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)
            yield io.BufferedReader(cast(io.RawIOBase, stream), _BUFFER)


def _values(column: pa.Array) -> list[object]:
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        # Parquet does not check that its strings are UTF-8: one that is not costs itself only.
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


def _field_text(value: object, counts: ReadCounts) -> Iterator[str]:
    if not isinstance(value, str):
        counts.bad_lines += 1
        return
    counts.bytes_read += len(value.encode("utf-8", "surrogatepass"))
    if _encodable(value):
        yield value
    else:
        counts.bad_lines += 1


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
        counts.bad_lines += 1
        return None


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
            counts.oversized += 1
        else:
            counts.bytes_read += len(line)
            if not line.isspace():
                yield line


def _line_documents(file: BinaryIO, begin: int, end: int, counts: ReadCounts) -> Iterator[str]:
    for line in _owned_lines(file, begin, end, counts):
        text = _decode(line, counts)
        if text is not None:
            yield text


def _json_lines(file: BinaryIO, begin: int, end: int, field: str, counts: ReadCounts) -> Iterator[str]:
    decode = json.JSONDecoder().raw_decode
    for line in _owned_lines(file, begin, end, counts):
        try:
            record, stop = decode(source := line.removeprefix(_BYTE_ORDER_MARK).decode("utf-8").strip(_JSON_BLANKS))
        except (ValueError, RecursionError):
            counts.bad_lines += 1
            continue
        text = record.get(field) if stop == len(source) and isinstance(record, dict) else None
        # Without an escape there is no way to spell half a surrogate pair in UTF-8.
        if isinstance(text, str) and (b"\\u" not in line or _encodable(text)):
            yield text
        else:
            counts.bad_lines += 1


def _blank_line_documents(file: BinaryIO, begin: int, end: int, counts: ReadCounts) -> Iterator[str]:
    """Documents whose preceding blank line (or the file's start) lies in [begin, end).

    Owning a document through the separator before it lets a range decide alone, without looking back.
    """
    owned = begin == 0
    parts: list[bytes] = []
    size = 0
    for start, line in lines_between(file, begin, end):
        blank = line is not None and line.isspace()
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
        counts.oversized += 1
        return
    counts.bytes_read += size
    # One broken line costs that line, not the whole document.
    decoded = [text for part in parts if (text := _decode(part, counts)) is not None]
    if decoded:
        yield "".join(decoded)


def _file_document(file: BinaryIO, counts: ReadCounts) -> Iterator[str]:
    data = file.read(MAX_RAW_BYTES + 1)
    yield from _flush(data.splitlines(keepends=True), len(data), counts)
