"""Small versioned JSON records: a JSON object in a file that appears whole, and one line when it cannot be read."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes

T = TypeVar("T")


def finite_values(value: Any) -> Any:
    """The same with null for each number that is not finite, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: finite_values(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite_values(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class DamagedRecord(UserError):
    """The file cannot be read, or does not hold the record that belongs there."""


class OtherVersion(UserError):
    """Another release wrote the record: it may be sound, but this program does not know its fields."""


def encode_record(record: Any, sort_keys: bool = False) -> bytes:
    """The bytes of a record file, for a mapping or a dataclass whose fields JSON can hold."""
    content = record if isinstance(record, Mapping) else dataclasses.asdict(record)
    return json.dumps(content, indent=1, sort_keys=sort_keys).encode() + b"\n"


def decode_record(data: bytes, where: str, make: Callable[[dict[str, Any]], T], *, advice: str, version: int = 1) -> T:
    """What ``make`` builds from the JSON object in ``data``; a record without a ``version`` is of version 1.

    Args:
        where: the record's name in messages.
        make: refuses an object of the wrong shape by KeyError, TypeError, ValueError, OverflowError or
            AttributeError.
        advice: what the user can do about a damaged record.

    Raises:
        DamagedRecord: the bytes are not a JSON object, or ``make`` refuses it.
        OtherVersion: the record is of another version; ``make`` is not called.
    """
    try:
        content = json.loads(data)
        if not isinstance(content, dict):
            raise TypeError("it is not a JSON object")
        found = content.get("version", 1)
        if found != version:
            raise OtherVersion(f"{where} has version {found}, this program reads {version}")
        return make(content)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        reason = f"it has no key {error}" if isinstance(error, KeyError) else error
        raise DamagedRecord(f"{where} cannot be read ({reason}); {advice}") from error


def write_record(path: Path, record: Any) -> None:
    """Write a record's file atomically; raises UserError if the disk is full or the folder cannot be written."""
    write_bytes(path, encode_record(record))


def read_record(path: Path, make: Callable[[dict[str, Any]], T], *, advice: str, version: int = 1) -> T | None:
    """What :func:`decode_record` makes of a file, None if there is no such file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedRecord(f"{path} cannot be read ({error.strerror}); {advice}") from error
    return decode_record(data, str(path), make, advice=advice, version=version)
