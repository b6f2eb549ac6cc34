"""Parquet files, on disk or in an object store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store, is_utf8
from data_pipeline.read.remote_file import RemoteFile

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_PARQUET_BLOCK_BYTES = 256 << 10
_NAMES_SHOWN = 20


@contextlib.contextmanager
def open_parquet(location: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file on disk or in an object store, of which only what is asked for is read."""
    import pyarrow.parquet as pq

    if is_object_store(location):
        # Column chunks are larger than this and come by a request each, footers by one or two.
        with RemoteFile(location, block=_PARQUET_BLOCK_BYTES) as raw, pq.ParquetFile(pa.PythonFile(raw, "r")) as file:
            yield file
    elif is_utf8(location):
        with pq.ParquetFile(location) as file:
            yield file
    else:
        # Such names are known to Python alone.
        with open(location, "rb") as opened, pq.ParquetFile(opened) as file:
            yield file


def parquet_metadata(path: str, field: str) -> Any:
    """The metadata of a Parquet file that has a column ``field`` of strings, dictionary-encoded or not.

    Raises:
        UserError: the file is not Parquet, or has no such column, or several of that name.
    """
    try:
        with open_parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as Parquet: {error}; restore the file or leave it out") from error
    if field not in schema.names:
        shown = schema.names[:_NAMES_SHOWN] + ["..."] * (len(schema.names) > _NAMES_SHOWN)
        raise UserError(f"{path} has no column {field!r}: set field to one of {', '.join(shown) or 'its columns'}")
    if schema.names.count(field) > 1:
        raise UserError(
            f"{path} has {schema.names.count(field)} columns {field!r}, and one can't be told from the other: "
            "rename one, or leave the file out"
        )
    kind = schema.field(field).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{path}: column {field!r} holds {kind}, not text: choose a column of strings")
    return metadata


def values(column: pa.Array) -> list[object]:
    """The values of a column; None for a string that is not UTF-8."""
    try:
        found: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        # Arrow does not check that its strings are UTF-8: one that is not costs itself only.
        return [_value(scalar) for scalar in column]
    return found


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None
