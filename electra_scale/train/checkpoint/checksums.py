"""What every file of a checkpoint must hold, so that a damaged one is known before it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipeline.places.atomic import sha256_of, sync, write_bytes
from data_pipeline.places.json_file import DamagedRecord, decode_record, encode_record
from data_pipeline.places.names import is_file_name

LIST = "checksums.json"
_VERSION = 1

Sums = dict[str, tuple[int, str]]
"""Size in bytes and SHA-256 of each file, by its name in the folder."""


def sums_of(folder: Path, names: Iterable[str]) -> Sums:
    """Sizes and checksums of files that were just written, once they are on disk; raises OSError."""
    found = {}
    for name in names:
        path = folder / name
        with open(path, "rb+") as file:
            sync(file.fileno(), path)
        found[name] = (path.stat().st_size, sha256_of(path))
    return found


def sum_of_bytes(data: bytes) -> tuple[int, str]:
    """Size and checksum of a file with this content."""
    return len(data), hashlib.sha256(data).hexdigest()


def encode(sums: Sums) -> bytes:
    """The content of a list file."""
    files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(sums.items())}
    return encode_record({"version": _VERSION, "files": files})


def decode(data: bytes) -> Sums:
    """The sums in a list file; raises ValueError if it is damaged, UserError if it is of another version."""
    try:
        return decode_record(data, f"{LIST} of a checkpoint", _decode, advice="", version=_VERSION)
    except DamagedRecord as error:
        raise ValueError(f"{LIST} is damaged") from error


def _decode(content: dict[str, Any]) -> Sums:
    sums = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    if not sums or not all(is_file_name(name) for name in sums):
        raise ValueError("it names no files, or files outside the checkpoint")
    return sums


def write_list(folder: Path, sums: Sums) -> None:
    """Write the list file of a folder."""
    write_bytes(folder / LIST, encode(sums))


def read_list(folder: Path) -> Sums:
    """The sums that a folder's files must have; raises ValueError if the list is missing or damaged."""
    try:
        data = (folder / LIST).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{LIST} is missing") from None
    except OSError as error:
        raise ValueError(f"{LIST} cannot be read ({error.strerror})") from error
    return decode(data)


def problem(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a folder's files, in a few words; None if they are what was written.

    Ranks share the reading: each calls it with its own ``part`` of ``parts``, and all must find nothing.
    """
    try:
        sums = read_list(folder)
    except ValueError as error:
        return str(error)
    # By size, so that the parts are about equal.
    names = sorted(sums, key=lambda name: (-sums[name][0], name))
    return next((found for name in names[part::parts] if (found := file_problem(folder / name, sums[name]))), None)


def file_problem(path: Path, expected: tuple[int, str]) -> str | None:
    """What is wrong with one file, None if it is whole."""
    size, digest = expected
    try:
        found = path.stat().st_size
        if found != size:
            return f"{path.name} has {found:,} bytes instead of {size:,}"
        if sha256_of(path) != digest:
            return f"the checksum of {path.name} is wrong"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
