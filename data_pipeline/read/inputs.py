"""Finding the inputs of a build: files, objects and data sets, in an order that does not change."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store
from data_pipeline.places.place import Entry
from data_pipeline.read.hub import DatasetInfo, describe_dataset
from data_pipeline.read.remote_file import find_remote

COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a source: a file, local or in an object store, or a data set's split.

    ``name`` and ``size`` (bytes; rows for a data set) go into the manifest; ``identity`` (full path and time of
    change or ETag, or the data set's fingerprint) decides whether an unfinished build may continue.
    """

    source: int
    location: str
    name: str
    size: int
    identity: str


def compression_of(path: str) -> str | None:
    """Name of the compression that a file's ending stands for, or None."""
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
