"""An export that is copied to another place is there whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from electra_scale.export.run import upload
from tests.torture.disk import MOUNT, small_disk


def test_a_copy_that_fails_takes_back_what_it_has_copied(
    tmp_path: Path, require_part: Callable[[bool, str], None]
) -> None:
    for network in ("discriminator", "generator"):
        (tmp_path / "export" / network).mkdir(parents=True)
        (tmp_path / "export" / network / "config.json").write_text("{}")
        (tmp_path / "export" / network / "model.safetensors").write_bytes(b"x" * (700 << 10))
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        require_part(disk is not None, MOUNT)
        assert disk is not None
        with pytest.raises(UserError, match="disk full"):
            upload(tmp_path / "export", FolderPlace(disk.folder))
        assert [path for path in disk.folder.rglob("*") if path.is_file()] == []
    upload(tmp_path / "export", FolderPlace(tmp_path / "there"))
    assert len([path for path in (tmp_path / "there").rglob("*") if path.is_file()]) == 4
