"""Results are in their folder whole or not at all, whatever the folder is, and what was there is kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.new_folder import free_folder, new_folder
from tests.torture.disk import MOUNT, small_disk


def written(path: Path, size: int = 10) -> None:
    with new_folder(path, "export") as folder:
        for name in ("one", "two"):
            (folder / name).mkdir()
            (folder / name / "file").write_bytes(b"x" * size)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WHOLE = ["one", "one/file", "two", "two/file"]


def refused(path: Path, size: int = 10) -> str:
    with pytest.raises(UserError) as refusal:
        written(path, size)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_new_path_gets_a_folder_with_its_parents(tmp_path: Path) -> None:
    written(tmp_path / "a/b/out")
    assert names(tmp_path / "a/b/out") == WHOLE
    assert names(tmp_path / "a/b") == ["out", *(f"out/{name}" for name in WHOLE)]


def test_an_empty_folder_stays_the_folder_that_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o750)
    before = out.stat()
    written(out)
    assert names(out) == WHOLE
    assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    (tmp_path / "second").symlink_to(tmp_path / "link")
    written(tmp_path / "second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert names(tmp_path / "real") == WHOLE


def test_a_folder_with_something_in_it_a_file_and_a_circle_of_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/.hidden").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("taken")
    (tmp_path / "circle").symlink_to("circle")
    before = names(tmp_path)
    assert "not empty" in refused(tmp_path / "taken")
    assert "not empty" in refused(tmp_path / "link")
    assert "is a file" in refused(tmp_path / "file")
    assert "cannot look at" in refused(tmp_path / "circle")
    assert "cannot" in refused(tmp_path / "file/below")
    assert "cannot" in refused(tmp_path / ("n" * 300))
    assert "cannot" in refused(Path(f"{tmp_path}/null\0byte"))
    assert names(tmp_path) == before


def test_after_a_failure_nothing_is_there_not_even_the_parents(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a/b/out"):
        with pytest.raises(FileExistsError), new_folder(path, "export") as folder:  # noqa: PT012
            (folder / "half").mkdir()
            raise FileExistsError("enough")
    assert names(tmp_path) == ["empty"]


def test_a_mount_point_is_written_and_a_full_disk_is_left_as_it_was(
    tmp_path: Path, require_part: Callable[[bool, str], None]
) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        require_part(disk is not None, MOUNT)
        assert disk is not None
        (disk.folder / "lost+found").mkdir()
        assert "disk full" in refused(disk.folder, size=3 << 20)
        assert names(disk.folder) == ["lost+found"]
        assert "disk full" in refused(disk.folder / "deep/out", size=3 << 20)
        assert names(disk.folder) == ["lost+found"]
        written(disk.folder)
        assert names(disk.folder) == sorted(["lost+found", *WHOLE])


def test_an_error_of_a_library_that_writes_by_itself_is_told_in_its_words(
    tmp_path: Path, require_part: Callable[[bool, str], None]
) -> None:
    import torch
    from safetensors.torch import save_file

    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        require_part(disk is not None, MOUNT)
        assert disk is not None
        with pytest.raises(UserError, match="disk full"), new_folder(disk.folder / "out", "export") as folder:
            save_file({"weights": torch.zeros(1 << 20)}, str(folder / "weights.safetensors"))
        assert names(disk.folder) == []


def test_a_folder_without_permission_is_refused() -> None:
    # Not below the folder of the tests, into which another user may not look.
    with tempfile.TemporaryDirectory() as name:
        closed = Path(name)
        closed.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            # It may write everywhere.
            os.seteuid(65534)
        try:
            assert "permissions" in refused(closed / "out")
        finally:
            if root:
                os.seteuid(0)
        assert names(closed) == []


def test_a_home_sign_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert free_folder(Path("~/out"), "export") == (tmp_path / "out").resolve()
