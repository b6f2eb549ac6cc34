"""Parquet files, on disk or in an object store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store
from data_pipeline.read.remote_file import RemoteFile

_PARQUET_BLOCK_BYTES = 256 << 10


@contextlib.contextmanager
def open_parquet(location: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file on disk or in an object store, of which only what is asked for is read."""
    if is_object_store(location):
        # Column chunks are larger than this and come by a request each, footers by one or two.
        with RemoteFile(location, block=_PARQUET_BLOCK_BYTES) as raw, pq.ParquetFile(pa.PythonFile(raw, "r")) as file:
            yield file
    else:
        with pq.ParquetFile(location) as file:
            yield file


def parquet_metadata(path: str, field: str) -> Any:
    """The metadata of a Parquet file that has a column ``field`` of strings.

    Raises:
        UserError: the file is not Parquet, or has no such column.
    """
    try:
        with open_parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"cannot read {path} as Parquet: {error}; restore the file or leave it out") from error
    if field not in schema.names:
        raise UserError(f"{path} has no column {field!r}: set field to one of {', '.join(schema.names)}")
    kind = schema.field(field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{path}: column {field!r} holds {kind}, not text: choose a column of strings")
    return metadata
