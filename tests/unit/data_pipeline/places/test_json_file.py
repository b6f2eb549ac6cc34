"""A record is read as it was written, or refused in one line, as damaged or as of another version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.places.json_file import (
    DamagedRecord,
    OtherVersion,
    decode_record,
    encode_record,
    read_record,
    write_record,
)


@dataclass(frozen=True)
class Progress:
    step: int
    note: str = ""
    version: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.step, int):
            raise ValueError(f"step is {self.step!r}")


def read(path: Path) -> Progress | None:
    return read_record(path, lambda content: Progress(**content), advice="remove it")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert read(path) is None
    for record in (Progress(1), Progress(2, "two\nlines")):
        write_record(path, record)
        assert read(path) == record
    write_record(path, {"step": 3})
    assert read(path) == Progress(3)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"step": "1"}', b'{"step": 1, "other": 2}', b"[" * 100_000],
)
def test_a_damaged_record_is_one_line_with_its_name_and_what_to_do(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_bytes(data)
    with pytest.raises(DamagedRecord) as refusal:
        read(path)
    message = str(refusal.value)
    assert message.startswith(f"{path} cannot be read (")
    assert message.endswith("); remove it")
    assert "\n" not in message


def test_a_record_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedRecord, match="cannot be read"):
        read(tmp_path)


def test_another_version_is_not_taken_for_damage() -> None:
    def make(content: dict[str, Any]) -> None:
        raise AssertionError("the fields of another version mean something else")

    data = encode_record({"version": 2, "fields": "unknown"})
    with pytest.raises(OtherVersion, match="the list has version 2, this program reads 1"):
        decode_record(data, "the list", make, advice="remove it")
    assert decode_record(data, "the list", dict, advice="", version=2) == json.loads(data)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(DamagedRecord, match="it has no key 'key'"):
        decode_record(b"{}", "the claim", lambda claim: claim["key"], advice="delete it")


def test_a_number_beyond_all_bounds_is_damage() -> None:
    with pytest.raises(DamagedRecord, match="cannot convert float infinity to integer"):
        decode_record(b'{"bytes": 1e400}', "the list", lambda found: int(found["bytes"]), advice="remove it")
