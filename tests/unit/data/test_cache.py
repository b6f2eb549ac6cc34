"""The cache: right content within its limit, whoever uses it at once and whoever is killed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.place import Missing
from electra_scale.data.cache import Cache

from .conftest import on_disk

Remote = tuple[FolderPlace, list[tuple[str, str, int]]]
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    """A folder of 24 files of 5 kB to 200 kB, and their names, checksums and sizes."""
    folder = tmp_path / "remote"
    folder.mkdir()
    generator = np.random.default_rng(1)
    files = []
    for number in range(24):
        content = generator.bytes(int(generator.integers(5_000, 200_000)))
        (folder / f"train-{number:05d}.arrow").write_bytes(content)
        files.append((f"train-{number:05d}.arrow", hashlib.sha256(content).hexdigest(), len(content)))
    return FolderPlace(folder), files


class Slow(FolderPlace):
    """A place that fetches slowly, and counts the fetches; the first ``spoil`` of them give damaged files."""

    def __init__(self, path: Path, seconds: float = 0.0, spoil: int = 0) -> None:
        super().__init__(path)
        self.seconds = seconds
        self.spoil = spoil
        self.fetches = 0

    def fetch(self, name: str, target: Path, most: int | None = None) -> None:
        self.fetches += 1
        time.sleep(self.seconds)
        super().fetch(name, target)
        if self.fetches <= self.spoil:
            with open(target, "rb+") as file:
                file.write(b"damaged")


def take(folder: Path, limit: int, remote: Remote, seed: int, times: int) -> None:
    place, files = remote
    cache = Cache(folder, limit)
    generator = random.Random(seed)
    for _ in range(times):
        name, sha256, size = generator.choice(files)
        with cache.open(place, name, sha256, size) as file:
            assert hashlib.sha256(file.read()).hexdigest() == sha256


def test_processes_that_share_a_folder_get_right_files_within_the_limit(remote: Remote, tmp_path: Path) -> None:
    folder, limit = tmp_path / "cache", 600_000
    Cache(folder, limit)
    workers = [PROCESSES.Process(target=take, args=(folder, limit, remote, seed, 80)) for seed in range(4)]
    for worker in workers:
        worker.start()
    most = 0
    while any(worker.is_alive() for worker in workers):
        most = max(most, on_disk(folder))
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert limit // 2 < most <= limit
    assert not list(folder.glob("*.part"))


def test_killed_processes_leave_nothing_that_stops_or_misleads_others(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    folder, limit = tmp_path / "cache", 600_000
    slow = (Slow(place.path, 0.02), files)
    generator = random.Random(2)
    for attempt in range(6):
        workers = [PROCESSES.Process(target=take, args=(folder, limit, slow, 10 * attempt + n, 400)) for n in range(2)]
        for worker in workers:
            worker.start()
        time.sleep(generator.uniform(0.03, 0.2))
        for worker in workers:
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
            assert worker.exitcode == -signal.SIGKILL
    take(folder, limit, remote, 99, 100)
    assert not list(folder.glob("*.part"))
    assert on_disk(folder) <= limit


def test_a_download_cut_by_kill_is_removed_and_started_again(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    folder = tmp_path / "cache"
    name, sha256, size = files[0]
    worker = PROCESSES.Process(target=Cache(folder, 10**7).get, args=(Slow(place.path, 60), name, sha256, size))
    worker.start()
    deadline = time.monotonic() + 20
    while not list(folder.glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    (orphan,) = folder.glob("*.part")
    assert orphan.stem == sha256
    # The download of another file removes it; its own starts from nothing.
    Cache(folder, 10**7).get(place, *files[1])
    assert not orphan.exists()
    assert Cache(folder, 10**7).get(place, name, sha256, size).read_bytes() == (place.path / name).read_bytes()


def test_ranks_that_want_the_same_file_download_it_once(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    slow = Slow(place.path, 0.2)
    caches = [Cache(tmp_path / "cache", 10**7) for _ in range(4)]
    threads = [threading.Thread(target=cache.get, args=(slow, *files[0])) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slow.fetches == 1
    assert sum(cache.fetched.bytes for cache in caches) == files[0][2]


def test_a_second_rank_downloads_what_the_first_failed_to(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    name, sha256, size = files[0]
    failing = Slow(place.path, 0.3, spoil=3)
    refused = []

    def first() -> None:
        try:
            Cache(tmp_path / "cache", 10**7).get(failing, name, sha256, size)
        except UserError as error:
            refused.append(str(error))

    thread = threading.Thread(target=first)
    thread.start()
    deadline = time.monotonic() + 20
    while not list((tmp_path / "cache").glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found = Cache(tmp_path / "cache", 10**7).get(place, name, sha256, size)
    thread.join()
    assert len(refused) == 1
    assert found.read_bytes() == (place.path / name).read_bytes()


def test_damaged_downloads_are_tried_again_and_then_named_with_both_checksums(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    name, sha256, size = files[0]
    cache = Cache(tmp_path / "cache", 10**7)
    twice = Slow(place.path, spoil=2)
    assert cache.get(twice, name, sha256, size).read_bytes() == (place.path / name).read_bytes()
    assert (twice.fetches, cache.fetched.errors) == (3, 2)
    other, wrong, length = files[1][0], "0" * 64, files[1][2]
    with pytest.raises(UserError) as refusal:
        cache.get(place, other, wrong, length)
    for named in (other, str(place.path), wrong, files[1][1]):
        assert named in str(refusal.value)
    assert not list(cache.folder.glob("*.part"))


def test_a_checksum_is_verified_once(remote: Remote, tmp_path: Path) -> None:
    """What was verified is not read again: a later change of the content is not noticed, one of the size is."""
    place, files = remote
    name, sha256, size = files[0]
    slow = Slow(place.path)
    cache = Cache(tmp_path / "cache", 10**7)
    path = cache.get(slow, name, sha256, size)
    path.write_bytes(b"x" * size)
    assert cache.get(slow, name, sha256, size).read_bytes() == b"x" * size
    path.write_bytes(b"short")
    assert cache.get(slow, name, sha256, size).read_bytes() == (place.path / name).read_bytes()
    assert slow.fetches == 2


def test_the_files_used_longest_ago_go_first(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    smallest, *_, third, second, first = sorted(files, key=lambda file: file[2])
    files = [first, second, third]
    cache = Cache(tmp_path / "cache", sum(-(-size // 4096) * 4096 for _, _, size in files))
    paths = [cache.get(place, *file) for file in files]
    cache.get(place, *files[0])
    with open(paths[1], "rb") as held:
        cache.get(place, *smallest)
        assert [path.exists() for path in paths] == [True, False, True]
        # A process that has it open can still read it.
        assert hashlib.sha256(held.read()).hexdigest() == files[1][1]
    assert on_disk(cache.folder) <= cache.limit


def test_a_file_larger_than_the_limit_is_refused_with_both_numbers(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    with pytest.raises(UserError, match=rf"{files[0][2]:,} bytes.*may hold 4,096.*limit_gb"):
        Cache(tmp_path / "cache", 4096).get(place, *files[0])


def test_a_file_that_is_missing_or_of_another_size_is_named(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    name, sha256, size = files[0]
    cache = Cache(tmp_path / "cache", 10**7)
    with pytest.raises(UserError, match=rf"{name} of .* has {size:,} bytes, but the manifest says {size + 1:,}"):
        cache.get(place, name, sha256, size + 1)
    (place.path / name).unlink()
    with pytest.raises(Missing, match=f"{name} is missing"):
        cache.get(place, name, sha256, size)
    assert list(cache.folder.iterdir()) == [cache.folder / ".lock"]


def test_a_full_disk_is_reported_in_one_line(remote: Remote, tmp_path: Path) -> None:
    place, files = remote
    name, sha256, _ = files[0]
    huge = 1 << 60
    cache = Cache(tmp_path / "cache", 1 << 62)
    with pytest.raises(UserError, match=rf"disk full: there are no {huge:,} bytes left for the cache"):
        cache.get(place, name, sha256, huge)
    assert list(cache.folder.iterdir()) == [cache.folder / ".lock"]
