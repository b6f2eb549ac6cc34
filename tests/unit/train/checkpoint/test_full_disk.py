"""A checkpoint that the disk does not take is told in one line, whichever file it is."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from electra_scale.data.retry_budget import DataError
from electra_scale.train.checkpoint.full_disk import writing


def save(path: Path, numbers: int, space: int) -> None:
    """Save a tensor where no file may grow beyond ``space`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (space, hard))
    try:
        with writing(path.parent):
            torch.save(torch.zeros(numbers), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("numbers", [1, 1_000, 1_000_000])
@pytest.mark.parametrize("space", [0, 500, 1_000, 3_000])
def test_a_file_without_space_says_what_to_do(tmp_path: Path, numbers: int, space: int) -> None:
    save(tmp_path / "file.pt", numbers, 1 << 30)
    if (tmp_path / "file.pt").stat().st_size <= space:
        save(tmp_path / "file.pt", numbers, space)
        return
    with pytest.raises(DataError, match=rf"cannot write checkpoint {tmp_path} \(.+\); free some space on its disk"):
        save(tmp_path / "file.pt", numbers, space)


def test_the_failure_of_another_rank_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="closed by peer"), writing(tmp_path):
        raise RuntimeError("Connection closed by peer")
