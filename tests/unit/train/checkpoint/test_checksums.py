"""Whatever happens to a file of a checkpoint is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint import state as checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files and their list."""
    sizes = {"a.pt": 5000, "b.pt": 3, "c.pt": 70_000, "empty": 0}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(number % 251 for number in range(size)))
    checksums.write_list(tmp_path, checksums.sums_of(tmp_path, sizes))
    return tmp_path


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x10
    path.write_bytes(content)


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("flipped bit", lambda folder: flipped(folder / "c.pt"), "the checksum of c.pt is wrong"),
    ("truncated", lambda folder: (folder / "a.pt").write_bytes(b""), "a.pt has 0 bytes instead of 5,000"),
    ("longer", lambda folder: (folder / "empty").write_bytes(b"x"), "empty has 1 bytes instead of 0"),
    ("missing", lambda folder: (folder / "b.pt").unlink(), "b.pt is missing"),
    ("folder", lambda folder: ((folder / "b.pt").unlink(), (folder / "b.pt").mkdir()), "b.pt"),
    ("no list", lambda folder: (folder / "checksums.json").unlink(), "checksums.json is missing"),
    ("cut list", lambda folder: (folder / "checksums.json").write_bytes(b'{"ver'), "checksums.json is damaged"),
    ("no names", lambda folder: (folder / "checksums.json").write_text('{"version": 1, "files": {}}'), "is damaged"),
    ("bytes", lambda folder: (folder / "checksums.json").write_bytes(b"\xff\xfe"), "is damaged"),
    (
        "a way out",
        lambda folder: (folder / "checksums.json").write_bytes(checksums.encode({"../a": (1, "0")})) and None,
        "is damaged",
    ),
]


def test_whole_files_have_no_problem_for_any_number_of_readers(folder: Path) -> None:
    for parts in (1, 2, 3, 9):
        assert all(checksums.problem(folder, part, parts) is None for part in range(parts))


@pytest.mark.parametrize(("damage", "reason"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damage_is_found_by_one_of_the_readers(folder: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(folder)
    for parts in (1, 2, 9):
        found = [checksums.problem(folder, part, parts) for part in range(parts)]
        assert any(each is not None and reason in each for each in found), found


def test_a_list_of_another_version_is_refused_and_not_taken_for_damage(folder: Path) -> None:
    path = folder / "checksums.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(UserError, match="has version 2, this program reads 1"):
        checksums.problem(folder)


def test_a_finished_checkpoint_lists_the_state_file_too(tmp_path: Path) -> None:
    state = checkpoint.RunState(10, "joint", 2, "tokenizer", {})
    folder = tmp_path / "step-00000010"
    folder.mkdir()
    (folder / "weights").write_text("weights")
    checkpoint.finish(tmp_path, state, 2, sums=checksums.sums_of(folder, ["weights"]))
    assert checksums.read_list(folder).keys() == {"weights", "run_state.json"}
    assert checksums.problem(folder) is None
    checkpoint.refuse_damaged(tmp_path, folder.name)
    flipped(folder / "run_state.json")
    assert checksums.problem(folder) == "the checksum of run_state.json is wrong"
    with pytest.raises(UserError, match=r"is damaged: the checksum of run_state.json is wrong; choose another one"):
        checkpoint.refuse_damaged(tmp_path, folder.name)
