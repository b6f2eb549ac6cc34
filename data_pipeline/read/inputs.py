"""Finding the inputs of a build: files, objects and data sets, in an order that does not change."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Callable, Sequence

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.places.names import is_object_store
from data_pipeline.places.place import Entry
from data_pipeline.read.hub import DatasetInfo, describe_dataset
from data_pipeline.read.passed_over import PassedOver
from data_pipeline.read.remote_file import find_remote
from data_pipeline.read.walk import Walk, status_of

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


def find_inputs(
    sources: Sequence[SourceConfig], out: str = "", note: Callable[[str], None] = lambda line: None
) -> list[Input]:
    """All inputs in canonical order: sources as configured, files by name.

    Args:
        out: the store that is being built, which is never a source.
        note: gets a line for each kind of thing that is left out.

    Raises:
        UserError: a pattern matches nothing, a file or folder can't be read, or a source lies in ``out``.
    """
    found: list[Input] = []
    for index, source in enumerate(sources):
        if source.kind == "datasets":
            found.append(_dataset_input(index, source))
            continue
        files: dict[str, Input] = {}
        passed = PassedOver()
        walk = Walk(None if is_object_store(out) else out, passed)
        for pattern in source.paths:
            _refuse_inside(pattern, out, f"sources[{index}].paths")
            if is_object_store(pattern):
                matched = [_remote_input(index, place, entry) for place, entry in find_remote(pattern, out, passed)]
            else:
                matched = [_file_input(index, path) for path in walk.expand(pattern)]
            if not matched:
                left = "; ".join(["", *passed.lines()])
                raise UserError(
                    f"sources[{index}].paths: {pattern!r} matches no file: check the path or the glob{left}"
                )
            for entry in matched:
                files.setdefault(entry.location, entry)
        found.extend(files.values())
        for line in passed.lines():
            note(f"sources[{index}]: {line}")
    return found


def _refuse_inside(pattern: str, out: str, key: str) -> None:
    """Refuse a source in the folder or prefix that a build writes to."""
    fixed = pattern
    if glob.has_magic(pattern) and (is_object_store(pattern) or not os.path.lexists(os.path.expanduser(pattern))):
        before = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
        fixed = before[: before.rfind("/") + 1]
    if not out or is_object_store(out) != is_object_store(pattern):
        return
    if is_object_store(out):
        inside = f"{fixed.rstrip('/')}/".startswith(f"{out.rstrip('/')}/")
    else:
        there, store = (os.path.realpath(os.path.expanduser(path)) for path in (fixed or os.curdir, out))
        inside = f"{there}/".startswith(f"{store}/")
    if inside:
        raise UserError(f"{key}: {pattern!r} lies in out ({out}), which is the store to make: choose another out")


def _file_input(index: int, path: str) -> Input:
    status = status_of(path)
    name = os.path.basename(path).encode("utf-8", "replace").decode("utf-8")
    return Input(index, path, name, status.st_size, f"{os.path.abspath(path)!a} {status.st_mtime_ns}")


def _remote_input(index: int, location: str, entry: Entry) -> Input:
    name = location.rstrip("/").rsplit("/", 1)[-1]
    return Input(index, location, name, entry.size, f"{location!a} {entry.identity}")


def _dataset_input(index: int, source: SourceConfig) -> Input:
    info: DatasetInfo = describe_dataset(source)
    return Input(index, str(source.name), info.name, info.rows, info.fingerprint)
