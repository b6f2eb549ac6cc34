"""Cleaned text that the first pass over a task keeps, compressed, so that later passes need not clean it again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import replacing

_SCHEMA = pa.schema([pa.field("text", pa.binary(), nullable=False)])
# What is compressed at once, and what a reader holds.
_BATCH_BYTES = 1 << 20


def write_texts(path: Path, texts: Iterable[bytes]) -> None:
    """Write texts in UTF-8 to ``path`` atomically, as an Arrow stream compressed by zstd.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    # One thread: a build has a process for each core.
    options = ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        ipc.new_stream(sink, _SCHEMA, options=options) as writer,
    ):
        for batch in _batches(texts):
            writer.write_batch(batch)


def read_texts(path: Path) -> Iterator[bytes]:
    """The texts of a file that :func:`write_texts` wrote, in order.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    try:
        with pa.OSFile(str(path), "rb") as source:
            for batch in ipc.open_stream(source, options=ipc.IpcReadOptions(use_threads=False)):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise damaged(path) from error


def damaged(path: Path) -> UserError:
    """What to report of a file that does not hold what was written."""
    return UserError(f"{path} is damaged: delete it and run the same command again")


def _batches(texts: Iterable[bytes]) -> Iterator[pa.RecordBatch]:
    held: list[bytes] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield _batch(held)
            held, size = [], 0
    if held:
        yield _batch(held)


def _batch(texts: list[bytes]) -> pa.RecordBatch:
    # Made from its buffers: ``pa.array`` would import pandas first, where there is one.
    offsets = np.fromiter(itertools.accumulate(map(len, texts), initial=0), np.int32, len(texts) + 1)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
    return pa.record_batch([pa.Array.from_buffers(pa.binary(), len(texts), buffers)], schema=_SCHEMA)
