"""One shard: an Arrow IPC file with one record batch of tokenized documents."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import replacing

SHARD_FORMAT = "electra-scale-shard"
SHARD_VERSION = 1
UINT16_VOCABULARY = 1 << 16

IdsType = Literal["auto", "uint16", "uint32"]


@dataclasses.dataclass(frozen=True)
class Shard:
    """An open shard. Document ``r`` has the ids ``ids[offsets[r]:offsets[r + 1]]`` and the id ``doc[r]``.

    ``ids`` (tokens,) uint16 or uint32 and ``doc`` (rows,) uint64 look straight into the memory map and are
    read-only; ``offsets`` (rows + 1,) is int64 and counts from the start of ``ids``.
    """

    ids: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    doc: npt.NDArray[np.uint64]
    tokenizer_fingerprint: str


def ids_dtype(vocab_size: int, ids_type: IdsType = "auto") -> np.dtype[Any]:
    """The numpy type of token ids for a vocabulary of ``vocab_size``.

    Raises:
        UserError: ``uint16`` is asked for and cannot hold the vocabulary.
    """
    fits = vocab_size <= UINT16_VOCABULARY
    if ids_type == "uint16" and not fits:
        raise UserError(
            f"ids_type uint16 holds at most {UINT16_VOCABULARY:,} different ids but the vocabulary has "
            f"{vocab_size:,}: set ids_type to auto or uint32, or use a smaller vocabulary"
        )
    return np.dtype(np.uint32 if ids_type == "uint32" or not fits else np.uint16)


def shard_schema(dtype: np.dtype[Any], tokenizer_fingerprint: str) -> pa.Schema:
    """The Arrow schema of a shard, with the metadata that names the format."""
    fields = [
        pa.field("ids", pa.list_(pa.from_numpy_dtype(dtype)), nullable=False),
        pa.field("doc", pa.uint64(), nullable=False),
    ]
    return pa.schema(
        fields,
        metadata={
            "format": SHARD_FORMAT,
            "version": str(SHARD_VERSION),
            "tokenizer_fingerprint": tokenizer_fingerprint,
        },
    )


def write_shard(
    path: str | Path,
    flat: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    doc: npt.NDArray[np.uint64],
    *,
    vocab_size: int,
    tokenizer_fingerprint: str,
    ids_type: IdsType = "auto",
) -> None:
    """Write documents to ``path`` atomically.

    Args:
        flat: (tokens,) token ids of all documents one after the other, without special tokens.
        offsets: (rows + 1,) where each document begins in ``flat``, and the end of the last.
        doc: (rows,) document ids.

    Raises:
        UserError: an id does not fit the vocabulary or the ids' type; too many tokens for one shard; the disk
            is full.
    """
    dtype = ids_dtype(vocab_size, ids_type)
    if len(offsets) != len(doc) + 1 or offsets[0] != 0 or offsets[-1] != len(flat):
        raise ValueError(f"{len(offsets)} offsets for {len(doc)} documents of {len(flat)} tokens")
    if len(flat) > np.iinfo(np.int32).max:
        raise UserError(f"{path}: {len(flat):,} tokens are too many for one shard: use smaller task_bytes")
    if flat.size and (int(flat.max()) >= vocab_size or int(flat.min()) < 0):
        worst = int(flat.max()) if int(flat.max()) >= vocab_size else int(flat.min())
        raise UserError(
            f"{path}: token id {worst} is outside the vocabulary of {vocab_size:,}: "
            "the tokenizer and the stated vocabulary size disagree"
        )
    schema = shard_schema(dtype, tokenizer_fingerprint)
    ids = pa.ListArray.from_arrays(
        _arrow(offsets.astype(np.int32), pa.int32()),
        _arrow(flat.astype(dtype, copy=False), pa.from_numpy_dtype(dtype)),
        type=schema.field("ids").type,
    )
    batch = pa.record_batch([ids, _arrow(doc, pa.uint64())], schema=schema)
    with (
        replacing(Path(path)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        ipc.new_file(sink, schema, options=ipc.IpcWriteOptions(compression=None)) as writer,
    ):
        writer.write_batch(batch)


def _arrow(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array over the same memory. ``pa.array`` would import pandas first, where there is one."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))], 0)


def open_shard(path: str | Path, tokenizer_fingerprint: str | None = None, where: str | None = None) -> Shard:
    """Map a shard into memory and check it.

    Args:
        tokenizer_fingerprint: when given, the shard must carry this one.
        where: what errors call the shard; its path when left out.

    Raises:
        UserError: the file is missing, truncated, not a shard, of another version, or made with another
            tokenizer.
    """
    where = where or str(path)
    try:
        source = pa.memory_map(str(path), "r")
    except FileNotFoundError:
        raise UserError(f"shard {where} is missing: restore it or build the store again") from None
    except OSError as error:
        raise UserError(f"cannot open shard {where}: {error}; check the file and its permissions") from error
    return read_shard(source, where, tokenizer_fingerprint)


def read_shard(source: pa.Buffer | pa.NativeFile, where: str, tokenizer_fingerprint: str | None = None) -> Shard:
    """Check a shard's bytes, mapped or in memory; ``where`` names them in errors.

    Raises:
        UserError: see :func:`open_shard`.
    """
    damaged = f"shard {where} is truncated or damaged"
    cure = "run `electra-data verify`, then restore the file or build the store again"
    try:
        file = pa.BufferReader(source) if isinstance(source, pa.Buffer) else source
        whole = file.read_buffer()
        reader = ipc.open_file(whole)
        schema, batches = reader.schema, reader.num_record_batches
        _check_schema(schema, where, tokenizer_fingerprint)
        if batches != 1:
            raise UserError(f"shard {where} has {batches} record batches, not one: it is not a shard of this format")
        batch = reader.get_batch(0)
        # A compressed buffer is read to a place of its own.
        if any(not _inside(buffer, whole) for column in batch.columns for buffer in column.buffers() if buffer):
            raise UserError(f"shard {where} is compressed: it is not a shard of this format")
        batch.validate(full=True)
        ids_column, doc_column = batch.column("ids"), batch.column("doc")
        if ids_column.null_count or doc_column.null_count:
            raise UserError(f"{damaged} (null values): {cure}")
        offsets = _numbers(ids_column.offsets).astype(np.int64)
        ids = _numbers(ids_column.values)
        doc = _numbers(doc_column)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{damaged} ({error}): {cure}") from error
    # An Arrow writer may leave values before the first or after the last row; ours are exactly the rows.
    if offsets[0] != 0 or offsets[-1] != len(ids):
        raise UserError(f"{damaged} (offsets do not cover the ids): {cure}")
    metadata = schema.metadata or {}
    return Shard(ids, offsets, doc, metadata[b"tokenizer_fingerprint"].decode("ascii", "replace"))


def _numbers(column: pa.Array) -> np.ndarray:
    """A column's numbers, where they lie. Arrow's own way to numpy imports pandas, a fifth of a second of a start."""
    return np.from_dlpack(column)


def _inside(part: pa.Buffer, whole: pa.Buffer) -> bool:
    return not part.size or whole.address <= part.address <= part.address + part.size <= whole.address + whole.size


def _check_schema(schema: pa.Schema, where: str, tokenizer_fingerprint: str | None) -> None:
    metadata = schema.metadata or {}
    if metadata.get(b"format") != SHARD_FORMAT.encode():
        raise UserError(f"{where} is an Arrow file but not a shard (no format {SHARD_FORMAT!r} in its metadata)")
    if metadata.get(b"version") != str(SHARD_VERSION).encode():
        found = metadata.get(b"version", b"none").decode("ascii", "replace")
        raise UserError(
            f"shard {where} has format version {found}, this program reads {SHARD_VERSION}: "
            "use the release that built the store, or build it again"
        )
    fingerprint = metadata.get(b"tokenizer_fingerprint")
    if fingerprint is None:
        raise UserError(f"shard {where} does not name its tokenizer: it was not written by `electra-data build`")
    if tokenizer_fingerprint is not None and fingerprint != tokenizer_fingerprint.encode():
        raise UserError(
            f"shard {where} was made with tokenizer {fingerprint[:12].decode('ascii', 'replace')}, "
            f"the store has {tokenizer_fingerprint[:12]}: the file belongs to another store"
        )
    for dtype in (np.dtype(np.uint16), np.dtype(np.uint32)):
        expected = shard_schema(dtype, "")
        if schema.names == expected.names and schema.types == expected.types:
            return
    raise UserError(f"shard {where} has columns {schema.names} of types {[str(t) for t in schema.types]}: not a shard")
