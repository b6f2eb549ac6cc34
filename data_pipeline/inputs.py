"""Which bytes a build reads, and their division into tasks that does not depend on workers."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.hub import DatasetInfo, describe_dataset
from data_pipeline.place import Entry, is_object_store
from data_pipeline.remote_file import RemoteFile, find_remote

COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
# How many compressed files share a task is decided before they are unpacked.
TYPICAL_COMPRESSION = 3
_PARQUET_BLOCK_BYTES = 256 << 10


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a source: a file, local or in an object store, or a data set's split.

    ``name`` and ``size`` (bytes; rows for a data set) go into the manifest; ``identity`` (full path and time of
    change or ETag, or the data set's fingerprint) only tells whether an unfinished build may continue.
    """

    source: int
    location: str
    name: str
    size: int
    identity: str


@dataclasses.dataclass(frozen=True)
class Piece:
    """The range [begin, end) of one input: bytes, row groups (Parquet) or rows (data sets)."""

    location: str
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Task:
    """One unit of work: consecutive pieces of one source. ``index`` is its place in canonical order."""

    index: int
    source: int
    pieces: tuple[Piece, ...]


def compression_of(path: str) -> str | None:
    """Name of the compression that a file's ending tells, or None."""
    return COMPRESSION.get(os.path.splitext(path)[1].lower())


def find_inputs(sources: Sequence[SourceConfig]) -> list[Input]:
    """All inputs in canonical order: sources as configured, files by name.

    Raises:
        UserError: a pattern matches nothing, or a file can't be read.
    """
    found: list[Input] = []
    for index, source in enumerate(sources):
        if source.kind == "datasets":
            found.append(_dataset_input(index, source))
            continue
        files: dict[str, Input] = {}
        for pattern in source.paths:
            if is_object_store(pattern):
                matched = [_remote_input(index, location, entry) for location, entry in find_remote(pattern)]
            else:
                matched = [_file_input(index, path) for path in _expand(pattern)]
            if not matched:
                raise UserError(f"sources[{index}].paths: {pattern!r} matches no file: check the path or the glob")
            for entry in matched:
                files.setdefault(entry.location, entry)
        found.extend(files.values())
    return found


def plan_tasks(sources: Sequence[SourceConfig], inputs: Sequence[Input], task_bytes: int) -> list[Task]:
    """Divide the inputs into tasks of about ``task_bytes`` bytes each, by content alone.

    Raises:
        UserError: a Parquet file can't be read or lacks the text column.
    """
    tasks: list[Task] = []
    for index, source in enumerate(sources):
        group: list[Piece] = []
        weight = 0
        for entry in (entry for entry in inputs if entry.source == index):
            for piece, size in _pieces(source, entry, task_bytes):
                # Many small files share a task; a large one fills several.
                if group and weight + size > task_bytes:
                    tasks.append(Task(len(tasks), index, tuple(group)))
                    group, weight = [], 0
                group.append(piece)
                weight += size
        if group:
            tasks.append(Task(len(tasks), index, tuple(group)))
    return tasks


def _expand(pattern: str) -> list[str]:
    expanded = os.path.expanduser(pattern)
    matches = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
    files: list[str] = []
    for match in matches:
        if os.path.isdir(match):
            files.extend(_below(match))
        else:
            files.append(match)
    return files


def _below(folder: str) -> list[str]:
    files: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files.extend(os.path.join(parent, name) for name in names if not name.startswith("."))
    return sorted(files)


def _file_input(index: int, path: str) -> Input:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"sources[{index}]: cannot read {path}: {error.strerror}") from error
    name = os.path.basename(path).encode("utf-8", "replace").decode("utf-8")
    return Input(index, path, name, status.st_size, f"{os.path.abspath(path)!a} {status.st_mtime_ns}")


def _remote_input(index: int, location: str, entry: Entry) -> Input:
    name = location.rsplit("/", 1)[-1]
    return Input(index, location, name, entry.size, f"{location!a} {entry.identity}")


def _dataset_input(index: int, source: SourceConfig) -> Input:
    info: DatasetInfo = describe_dataset(source)
    return Input(index, str(source.name), info.name, info.rows, info.fingerprint)


def _pieces(source: SourceConfig, entry: Input, task_bytes: int) -> Iterator[tuple[Piece, int]]:
    path = entry.location
    if source.kind == "datasets":
        info = describe_dataset(source)
        per_task = max(1, int(task_bytes / max(1.0, info.bytes_per_row)))
        for begin in range(0, info.rows, per_task):
            end = min(begin + per_task, info.rows)
            yield Piece(path, begin, end), task_bytes
    elif source.kind == "parquet":
        metadata = parquet_metadata(path, source.field)
        for group in range(metadata.num_row_groups):
            yield Piece(path, group, group + 1), metadata.row_group(group).total_byte_size
    elif compression_of(path):
        # A compressed stream can't be entered in the middle.
        yield Piece(path, 0, entry.size), entry.size * TYPICAL_COMPRESSION
    elif source.kind == "wikipedia" or (source.kind == "text" and source.documents == "file"):
        yield Piece(path, 0, entry.size), entry.size
    else:
        for begin in range(0, entry.size, task_bytes):
            end = min(begin + task_bytes, entry.size)
            yield Piece(path, begin, end), end - begin


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
        UserError: no Parquet file, or no such column.
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
