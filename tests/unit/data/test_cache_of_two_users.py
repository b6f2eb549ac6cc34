"""Two users name one cache folder: it works where the folder's permissions let both write, else one line says so."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.places.folder import FolderPlace
from electra_scale.data.cache import Cache
from tests.support.fixtures.surroundings import OTHER_USER, as_other_user, reachable

ROOT = "root, to be another user"
CONTENT = {f"train-{number}.arrow": bytes([number]) * 5000 for number in range(4)}


@pytest.fixture
def place(tmp_path: Path, require_part: Callable[[bool, str], None]) -> FolderPlace:
    require_part(os.geteuid() == 0, ROOT)
    reachable(tmp_path)
    (tmp_path / "store").mkdir()
    for name, content in CONTENT.items():
        (tmp_path / "store" / name).write_bytes(content)
    return FolderPlace(tmp_path / "store")


def take(folder: Path, place: FolderPlace, *names: str, limit: int = 10**6) -> str:
    cache = Cache(folder, limit)
    found = []
    for name in names:
        content = CONTENT[name]
        with cache.open(place, name, hashlib.sha256(content).hexdigest(), len(content)) as file:
            assert file.read() == content
        found.append(name)
    return f"read {len(found)}, fetched {cache.fetched.bytes}"


def test_a_folder_that_is_its_owner_s_alone_is_refused_with_the_owner_s_name(
    place: FolderPlace, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    take(folder, place, "train-0.arrow")
    for mode in (0o700, 0o755):
        folder.chmod(mode)
        line = as_other_user(lambda: take(folder, place, "train-0.arrow", "train-1.arrow"))
        assert line.startswith(f"refused: cannot use the cache folder {folder} of user root (Permission denied")
        assert "data.cache.folder" in line


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_is_open_to_both_serves_both(mode: int, place: FolderPlace, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    assert take(folder, place, "train-0.arrow", "train-1.arrow") == "read 2, fetched 10000"
    assert as_other_user(lambda: take(folder, place, "train-0.arrow", "train-2.arrow")) == "read 2, fetched 5000"
    assert take(folder, place, *CONTENT) == "read 4, fetched 5000"


def test_files_of_another_user_that_may_not_be_removed_are_not_evicted(place: FolderPlace, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o1777)
    take(folder, place, "train-0.arrow")
    # Room for two files of two blocks each: the other user's own one makes room, the owner's stays.
    names = ("train-1.arrow", "train-2.arrow")
    assert as_other_user(lambda: take(folder, place, *names, limit=16384)) == "read 2, fetched 10000"
    left = {path.name[:8] for path in folder.glob("*.arrow")}
    assert left == {hashlib.sha256(CONTENT[name]).hexdigest()[:8] for name in ("train-0.arrow", "train-2.arrow")}


def test_a_part_that_another_user_left_half_is_named(place: FolderPlace, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o1777)
    take(folder, place, "train-1.arrow")
    part = folder / f"{hashlib.sha256(CONTENT['train-0.arrow']).hexdigest()}.part"
    part.write_bytes(b"half")
    part.chmod(0o600)
    line = as_other_user(lambda: take(folder, place, "train-0.arrow"))
    assert line.startswith("refused: cannot use the cache folder")
    assert part.name in line


def test_an_owner_without_a_name_is_named_by_number(place: FolderPlace, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    os.chown(folder, OTHER_USER + 1, OTHER_USER + 1)
    line = as_other_user(lambda: take(folder, place, "train-0.arrow"))
    assert line.startswith(f"refused: cannot use the cache folder {folder} of user {OTHER_USER + 1} (Permission denied")
