"""Compressed files are read whole, in all their forms, or refused by name."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.read.documents import ReadCounts, read_task
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.tasks import plan_tasks
from data_pipeline.read.zstd import ZstdFile

LINES = [f"Line {number}: {random.Random(number).randrange(10**9)}" for number in range(3000)]
DATA = "".join(line + "\n" for line in LINES).encode()
# A frame that readers pass over: its magic number, its length, its content.
SKIPPED = b"\x53\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"\x28\xb5\x2f\xfdabc"


def zstd(data: bytes, window: int = 0, checksum: bool = True) -> bytes:
    """One frame as ``zstd --long=WINDOW`` writes it from a pipe: without the content's size."""
    more = {"window_log": window, "enable_ldm": True} if window else {}
    parameters = zstandard.ZstdCompressionParameters(write_checksum=checksum, **more)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


def read(path: Path) -> list[str]:
    source = SourceConfig(kind="text", paths=[str(path)], documents="line")
    found: list[str] = []
    for task in plan_tasks([source], find_inputs([source]), 1 << 20):
        found.extend(read_task(task, source, ReadCounts()))
    return [line.rstrip("\n") for line in found]


@pytest.mark.parametrize("window", [27, 28, 31])
def test_a_long_window_is_read(tmp_path: Path, window: int) -> None:
    packed = zstd(DATA, window)
    assert zstandard.get_frame_parameters(packed).window_size == 1 << window
    (tmp_path / "a.zst").write_bytes(packed)
    assert read(tmp_path / "a.zst") == LINES


@pytest.mark.parametrize(
    "packed",
    [
        zstd(DATA[:1000]) + zstd(DATA[1000:], 31),
        SKIPPED + zstd(DATA) + SKIPPED,
        b"".join(zstd(DATA[start : start + 100]) for start in range(0, len(DATA), 100)),
        zstd(b"") + zstd(DATA) + zstd(b""),
        zstandard.ZstdCompressor().compress(DATA),
    ],
    ids=["frames", "skippable", "many", "empty", "sized"],
)
def test_all_frames_of_a_file_are_read(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "a.zst").write_bytes(packed)
    assert read(tmp_path / "a.zst") == LINES


@pytest.mark.parametrize("window", [0, 31])
def test_a_truncated_or_damaged_file_is_named(tmp_path: Path, window: int) -> None:
    packed = zstd(DATA, window)
    path = tmp_path / "a.zst"
    for damaged in (
        packed[:-1],
        packed[: len(packed) // 2],
        packed[:3],
        packed + packed[:10],
        packed + b"garbage",
        packed[:-2] + b"xx",
        packed[: len(packed) // 2] + bytes(20) + packed[len(packed) // 2 + 20 :],
        DATA,
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{re.escape(str(path))}.*(zstd|damaged)") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_members_of_gzip_are_read_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(DATA[:999]) + gzip.compress(DATA[999:]))
    assert read(path) == LINES
    packed = gzip.compress(DATA)
    for damaged in (
        packed[:-1],
        packed[:-6],
        packed[:5],
        packed + packed[:15],
        packed[:-8] + bytes(8),
        DATA,
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=re.escape(str(path))):
            read(path)


def test_a_small_file_of_zeros_takes_no_memory_to_speak_of(tmp_path: Path) -> None:
    packed = zstd(bytes(1 << 20) * 300, checksum=False)
    tracemalloc.start()
    try:
        with io.BufferedReader(ZstdFile(io.BytesIO(packed)), 1 << 20) as file:
            size = 0
            while part := file.read(1 << 20):
                size += len(part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 300 << 20
    assert peak < 100 << 20


def test_random_bytes_come_back(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    assert ZstdFile(io.BytesIO(zstd(data))).readall() == data
