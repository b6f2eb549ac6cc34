"""Checkpoints: visible when whole, pruned by count, and one line for what can't be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.state import (
    RunState,
    complete_tags,
    discard_unfinished,
    finish,
    newest,
    read_state,
    tag_of,
)


def state(step: int, **changes: Any) -> RunState:
    return RunState(step, "joint", 2, "tokenizer", {"samples": 8 * step}, [0.5, 0.25], 12.5, **changes)


def save(folder: Path, step: int, keep: int = 10) -> None:
    (folder / tag_of(step)).mkdir(parents=True)
    (folder / tag_of(step) / "weights").write_text("weights")
    finish(folder, state(step), keep)


def unfinished(folder: Path, step: int) -> Path:
    """What a save leaves that was killed before its last file."""
    path = folder / tag_of(step)
    path.mkdir(parents=True)
    (path / "weights").write_text("wei")
    return path


def test_a_finished_checkpoint_is_found_with_all_that_it_knows(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 20)
    assert complete_tags(tmp_path) == [tag_of(10), tag_of(20)]
    assert newest(tmp_path) == state(20)
    assert read_state(tmp_path, tag_of(10)) == state(10)
    assert (tmp_path / "latest").read_text().strip() == tag_of(20)


def test_where_nothing_was_saved_nothing_is_found(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None
    assert complete_tags(tmp_path / "nowhere") == []


def test_an_unfinished_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path, 10)
    unfinished(tmp_path, 20)
    assert newest(tmp_path) == state(10)
    assert complete_tags(tmp_path) == [tag_of(10)]


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step)
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 1_000_000


def test_the_state_file_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any write of ``finish``, a run resumes from the checkpoint before it or from the whole new one."""
    save(tmp_path, 10)
    path = unfinished(tmp_path, 20)
    written: list[str] = []
    original = checkpoint.write_bytes

    def write_bytes(target: Path, data: bytes) -> None:
        # Before each write the weights are there, and the checkpoint is either unfinished or whole.
        found = newest(tmp_path)
        assert found in (state(10), state(20))
        assert (path / "weights").is_file()
        written.append(target.name)
        original(target, data)

    monkeypatch.setattr(checkpoint, "write_bytes", write_bytes)
    finish(tmp_path, state(20), 10)
    assert written == ["run_state.json", "latest"]
    assert newest(tmp_path) == state(20)


def test_the_oldest_beyond_the_number_kept_are_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=2)
    assert complete_tags(tmp_path) == [tag_of(30), tag_of(40)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", tag_of(30), tag_of(40)]


def test_a_removal_cut_short_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)

    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 20, keep=1)
    assert (tmp_path / tag_of(10)).is_dir()
    assert complete_tags(tmp_path) == [tag_of(20)]


def test_what_a_killed_save_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path, 10)
    left = unfinished(tmp_path, 20)
    other = tmp_path / "step-notes"
    other.mkdir()
    discard_unfinished(tmp_path)
    assert not left.exists()
    assert other.exists()
    assert newest(tmp_path) == state(10)
    discard_unfinished(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": 5}', b'{"unknown": 1}', b"\xff\xfe"])
def test_a_state_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, 10)
    path = tmp_path / tag_of(10) / "run_state.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        newest(tmp_path)
    assert str(path) in str(refusal.value)
    assert f"remove the folder {path.parent}" in str(refusal.value)


def test_a_state_of_another_version_is_refused_whatever_else_it_holds(tmp_path: Path) -> None:
    """And nobody is told to remove it: another release can read it."""
    save(tmp_path, 10)
    path = tmp_path / tag_of(10) / "run_state.json"
    content = json.loads(path.read_text())
    for more in ({}, {"new_field": 1}):
        path.write_text(json.dumps(content | {"version": 2} | more))
        with pytest.raises(UserError, match=r"has version 2, this program reads 1") as refusal:
            newest(tmp_path)
        assert "remove" not in str(refusal.value)


def test_a_pending_row_keeps_its_name_on_disk(tmp_path: Path) -> None:
    """Checkpoints of earlier releases have it under this name, and they read those of this one."""
    (tmp_path / tag_of(10)).mkdir()
    finish(tmp_path, state(10, pending={"loss/total": 1.5}), 10)
    content = json.loads((tmp_path / tag_of(10) / "run_state.json").read_text())
    assert content["owed"] == {"loss/total": 1.5}
    assert "pending" not in content
    assert newest(tmp_path) == state(10, pending={"loss/total": 1.5})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "10"),
        ("step", -1),
        ("step", True),
        ("world_size", None),
        ("phase", "warm"),
        ("phase", []),
        ("loader", 3),
    ],
)
def test_a_state_with_a_value_that_no_run_writes_is_damaged(key: str, value: object, tmp_path: Path) -> None:
    """A run would take an unknown phase for one that is over, and call itself finished."""
    save(tmp_path, 10)
    path = tmp_path / tag_of(10) / "run_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"run_state.json cannot be read .*{key} is"):
        newest(tmp_path)
