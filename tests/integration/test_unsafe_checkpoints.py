"""A checkpoint in which somebody has planted a program is refused on every way to its weights, and nothing is run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.checksums import LIST
from electra_scale.train.engine import universal
from tests.support.fixtures.runs import plain, run

pytestmark = pytest.mark.slow

WEIGHTS, MOMENTS = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"
FILES = [WEIGHTS, MOMENTS, "sampler.pt", "drawn_ahead.pt"]
"""Each kind of file in a checkpoint; the last one is there only where a run was stopped."""


class Planted:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    """A run folder that may be spoiled."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def newest(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / checkpoint.complete_tags(run_folder / "checkpoints")[-1]


def plant(folder: Path, name: str, marker: Path, listed: bool = True) -> None:
    """Add a program to what a file holds, or make the file, and bring the list of checksums up to date."""
    path = folder / name
    content = torch.load(path, weights_only=False) if path.is_file() else {}
    torch.save({**content, "planted": Planted(marker)} if isinstance(content, dict) else Planted(marker), path)
    if listed:
        checksums.write_list(folder, checksums.read_list(folder) | checksums.sums_of(folder, [name]))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FILES)
def test_neither_export_nor_probe_nor_conversion_runs_a_planted_program(
    name: str, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    plant(newest(copy), name, marker)
    before = snapshot(copy)
    for command in (["export", str(copy), str(tmp_path / "out")], ["probe", str(copy), "--samples", "2"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{name} would call posix.mkdir" in error
    with pytest.raises(UserError, match=f"{name} would call posix.mkdir"):
        universal.convert(newest(copy))
    assert not marker.exists()
    assert not (tmp_path / "out").exists()
    assert snapshot(copy) == before


@pytest.mark.parametrize("name", [MOMENTS, "drawn_ahead.pt"])
def test_a_run_is_not_resumed_from_it_and_takes_no_older_one_instead(name: str, copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    plant(newest(copy), name, marker)
    before = snapshot(copy)
    more = ("--schedule.steps", "6", "--resume", "auto")
    result = run(plain("--config", copy / "recipe.yaml", "--run_dir", copy, *more), tmp_path)
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert f"{newest(copy)} is refused" in line
    assert f"{name} would call posix.mkdir" in line
    assert not marker.exists()
    changed = {"log.txt", "status.json"}
    assert {key: value for key, value in snapshot(copy).items() if key not in changed} == {
        key: value for key, value in before.items() if key not in changed
    }


def test_a_copy_that_is_fetched_is_refused_as_well(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    plant(newest(copy), MOMENTS, marker)
    more = ("--checkpoint.upload", copy, "--schedule.steps", "6", "--resume", "auto")
    result = run(plain("--config", copy / "recipe.yaml", "--run_dir", tmp_path / "new", *more), tmp_path)
    assert result.returncode == 2, result.stderr
    assert f"{MOMENTS} would call posix.mkdir" in result.stderr
    assert not marker.exists()


def test_files_that_only_deepspeed_s_patterns_find_are_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, folder = tmp_path / "marker", newest(copy)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere / "step-99999999")
    plant(elsewhere / "step-99999999", WEIGHTS, marker)
    (copy / "checkpoints/latest").write_text("../../elsewhere/step-99999999\n")
    assert main(["export", str(copy), str(tmp_path / "out")]) == 0
    for name in ("zero_pp_rank_1_mp_rank_00_optim_states.pt", "layer_00-model_states.pt"):
        (folder / name).symlink_to(elsewhere / "step-99999999" / WEIGHTS)
        assert main(["export", str(copy), str(tmp_path / "again")]) == 2
        assert f"{name} is not in {LIST}" in capsys.readouterr().err
        with pytest.raises(UserError, match=f"{name} is not in {LIST}"):
            universal.convert(folder)
        (folder / name).unlink()
    assert not marker.exists()


def test_a_converted_form_that_lies_beside_is_held_to_the_same(copy: Path, tmp_path: Path) -> None:
    marker, original = tmp_path / "marker", tmp_path / "original"
    made = universal.convert(newest(copy))
    assert universal.convert(newest(copy)) == made
    shutil.copytree(made, original)
    for name in (WEIGHTS, "zero/optimizer_state.pt", "zero/electra.embeddings.word.weight/fp32.pt"):
        assert (made / name).is_file()
        plant(made, name, marker)
        with pytest.raises(UserError, match=f"{name} would call posix.mkdir"):
            universal.convert(newest(copy))
        shutil.copy(original / name, made / name)
        shutil.copy(original / LIST, made / LIST)
    plant(made, "zero/electra.embeddings.word.weight/more.pt", marker, listed=False)
    with pytest.raises(UserError, match=f"more.pt is not in {LIST}"):
        universal.convert(newest(copy))
    assert not marker.exists()


def test_a_checkpoint_without_a_list_of_its_files_is_read_but_not_run(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (newest(copy) / LIST).unlink()
    assert main(["export", str(copy), str(tmp_path / "out")]) == 0
    plant(newest(copy), WEIGHTS, tmp_path / "marker", listed=False)
    assert main(["export", str(copy), str(tmp_path / "again")]) == 2
    assert f"{WEIGHTS} would call posix.mkdir" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()
