"""Which checkpoint a run resumes from, here and in its remote copy, and what is copied there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from data_pipeline.errors import UserError
from data_pipeline.places.folder import FolderPlace
from data_pipeline.places.open import open_place
from data_pipeline.places.place import Unavailable
from electra_scale.cluster.ranks import Alone
from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.checkpoint.resume import newest_whole, refuse_to_overwrite
from electra_scale.train.checkpoint.run_folder import RunFolder
from electra_scale.train.checkpoint.state import RunState, tag_of
from electra_scale.train.checkpoint.upload import Uploader

ALONE = Alone(torch.device("cpu"))


class Down(FolderPlace):
    """A place that does not answer, or not when a name is written."""

    def __init__(self, path: Path, refused: str = "") -> None:
        super().__init__(path)
        self.refused = refused

    def list(self, prefix: str = "") -> object:
        if not self.refused:
            raise Unavailable("no answer")
        return super().list(prefix)

    def put_file(self, name: str, source: Path) -> None:
        if self.refused and self.refused in name:
            raise Unavailable(f"no answer for {name}")
        super().put_file(name, source)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    return folder


@pytest.fixture
def remote(tmp_path: Path) -> RemoteRun:
    return RemoteRun(FolderPlace(tmp_path / "remote"))


def save(run: RunFolder, step: int, keep: int = 10, keep_every: int = 0) -> Path:
    folder = run.checkpoints / tag_of(step)
    folder.mkdir(parents=True)
    (folder / "weights.pt").write_bytes(f"weights of {step}".encode() * 1000)
    run.metrics.write_text("".join(f'{{"step": {each}}}\n' for each in range(1, step + 3)))
    sums = checksums.sums_of(folder, ["weights.pt"])
    state = RunState(step, "joint", 1, "tokenizer", {})
    checkpoint.finish(run.checkpoints, state, keep, keep_every=keep_every, sums=sums)
    return folder


def spoil(folder: Path) -> None:
    (folder / "weights.pt").write_bytes(b"weights of nothing")


def upload(run: RunFolder, remote: RemoteRun, from_step: int = 0, **settings: int) -> list[str]:
    """Copy what there is, as a run does at its end; the lines it logged."""
    logged: list[str] = []
    Uploader(run, remote, CheckpointConfig(**settings), from_step, logged.append).close()
    return logged


def test_the_newest_whole_checkpoint_is_taken_and_damaged_ones_are_set_aside(run: RunFolder) -> None:
    for step in (10, 20, 30, 40):
        save(run, step)
    spoil(run.checkpoints / tag_of(40))
    (run.checkpoints / tag_of(30) / "weights.pt").unlink()
    logged: list[str] = []
    state = newest_whole(run, None, ALONE, logged.append)
    assert state is not None
    assert state.step == 20
    assert checkpoint.complete_tags(run.checkpoints) == [tag_of(10), tag_of(20)]
    assert (run.checkpoints / f"damaged-{tag_of(40)}/run_state.json").is_file()
    assert (run.checkpoints / "latest").read_text().strip() == tag_of(20)
    assert [line.split(" (")[0] for line in logged] == [
        f"checkpoint {tag_of(40)} cannot be used",
        f"checkpoint {tag_of(30)} cannot be used",
    ]
    assert newest_whole(run, None, ALONE, logged.append) == state
    assert len(logged) == 2


def test_where_all_are_damaged_nothing_is_touched(run: RunFolder) -> None:
    spoil(save(run, 10))
    with pytest.raises(UserError, match=r"no checkpoint of .* can be used \(step-00000010: weights.pt has"):
        newest_whole(run, None, ALONE, print)
    assert checkpoint.complete_tags(run.checkpoints) == [tag_of(10)]


def test_a_run_that_has_saved_nothing_begins(run: RunFolder, remote: RemoteRun) -> None:
    assert newest_whole(run, remote, ALONE, print) is None
    refuse_to_overwrite(run, remote, ALONE)


def test_an_empty_machine_gets_the_newest_copy_with_the_files_of_the_run(
    run: RunFolder, remote: RemoteRun, tmp_path: Path
) -> None:
    save(run, 10)
    save(run, 20)
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard/events").write_bytes(b"events")
    (run.path / "log.txt").write_text("a line\n")
    (run.path / "other.txt").write_text("not of the run")
    assert upload(run, remote) == []
    with pytest.raises(UserError, match="already holds checkpoints of a run"):
        refuse_to_overwrite(RunFolder(tmp_path / "new"), remote, ALONE)
    new = RunFolder(tmp_path / "new")
    state = newest_whole(new, remote, ALONE, print)
    assert state is not None
    assert state.step == 20
    assert checksums.problem(new.checkpoints / tag_of(20)) is None
    for name in ("metrics.jsonl", "log.txt", "tensorboard/events"):
        assert (new.path / name).read_bytes() == (run.path / name).read_bytes()
    assert not (new.path / "other.txt").exists()


def test_a_damaged_copy_is_passed_over_and_a_damaged_original_fetched_again(run: RunFolder, remote: RemoteRun) -> None:
    for step in (10, 20):
        save(run, step)
        upload(run, remote)
    spoil(run.checkpoints / tag_of(20))
    logged: list[str] = []
    state = newest_whole(run, remote, ALONE, logged.append)
    assert state is not None
    assert state.step == 20
    assert any("damaged" in line for line in logged)
    assert "was fetched from" in logged[-1]
    spoil(run.checkpoints / tag_of(20))
    assert isinstance(remote.place, FolderPlace)
    spoil(remote.place.path / "checkpoints" / tag_of(20))
    state = newest_whole(run, remote, ALONE, logged.append)
    assert state is not None
    assert state.step == 10
    assert checkpoint.complete_tags(run.checkpoints) == [tag_of(10)]


def test_what_is_newer_here_wins_over_the_copy_and_a_newer_copy_over_what_is_here(
    run: RunFolder, remote: RemoteRun, tmp_path: Path
) -> None:
    save(run, 10)
    upload(run, remote)
    save(run, 20)
    state = newest_whole(run, remote, ALONE, print)
    assert state is not None
    assert state.step == 20
    old = RunFolder(tmp_path / "old")
    save(old, 5)
    state = newest_whole(old, remote, ALONE, print)
    assert state is not None
    assert state.step == 10
    assert old.metrics.read_text().count("\n") == 12


def test_a_place_that_does_not_answer_stops_a_run_only_where_there_is_nothing_else(
    run: RunFolder, tmp_path: Path
) -> None:
    down = RemoteRun(Down(tmp_path / "remote"))
    with pytest.raises(UserError, match=r"cannot see whether .* has a copy of this run: no answer"):
        newest_whole(run, down, ALONE, print)
    save(run, 10)
    logged: list[str] = []
    assert newest_whole(run, down, ALONE, logged.append) is not None
    assert logged == [f"resuming without checking {tmp_path / 'remote'} for newer checkpoints: no answer"]


def test_a_copy_that_was_cut_short_is_no_copy_and_goes_with_the_next(run: RunFolder, tmp_path: Path) -> None:
    place = Down(tmp_path / "remote", refused="run_state.json")
    remote = RemoteRun(place)
    save(run, 10)
    (line,) = upload(run, remote)
    assert line.startswith(f"warning: the last checkpoint is not in {place.url}: no answer for")
    assert remote.tags() == []
    assert (place.path / "checkpoints" / tag_of(10) / "weights.pt").is_file()
    place.refused = "nothing"
    save(run, 20)
    assert upload(run, remote) == []
    assert remote.tags() == [tag_of(20)]
    assert not (place.path / "checkpoints" / tag_of(10) / "weights.pt").exists()


def test_both_ends_are_pruned_by_the_same_rule(run: RunFolder, remote: RemoteRun) -> None:
    for step in range(10, 80, 10):
        save(run, step, keep=2, keep_every=30)
        upload(run, remote, from_step=step, keep=2, keep_every=30, every=10)
    kept = [tag_of(step) for step in (30, 60, 70)]
    assert checkpoint.complete_tags(run.checkpoints) == kept
    assert remote.tags() == kept


def test_copies_of_steps_that_a_run_trains_again_are_replaced(run: RunFolder, remote: RemoteRun) -> None:
    save(run, 10)
    upload(run, remote)
    save(run, 20)
    upload(run, remote)
    checkpoint.set_aside(run.checkpoints, tag_of(20))
    (save(run, 20) / "weights.pt").stat()
    sums = checksums.read_list(run.checkpoints / tag_of(20))
    (run.checkpoints / tag_of(20) / "other.pt").write_bytes(b"another")
    more = checksums.sums_of(run.checkpoints / tag_of(20), ["other.pt"])
    checksums.write_list(run.checkpoints / tag_of(20), sums | more)
    assert upload(run, remote, from_step=10) == []
    assert remote.place.read(f"checkpoints/{tag_of(20)}/other.pt") == b"another"


def test_training_goes_on_while_an_upload_lasts_and_what_it_reads_is_not_pruned(run: RunFolder, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(FolderPlace):
        def put_file(self, name: str, source: Path) -> None:
            begun.set()
            assert go_on.wait(60)
            super().put_file(name, source)

    remote = RemoteRun(Slow(tmp_path / "remote"))
    logged: list[str] = []
    save(run, 10)
    uploader = Uploader(run, remote, CheckpointConfig(keep=1), 0, logged.append)
    assert begun.wait(60)
    for step in (20, 30):
        folder = run.checkpoints / tag_of(step)
        folder.mkdir()
        checkpoint.finish(run.checkpoints, RunState(step, "joint", 1, "t", {}), 1, spared=uploader.reading)
        uploader.submit()
    assert checkpoint.complete_tags(run.checkpoints) == [tag_of(10), tag_of(30)]
    go_on.set()
    uploader.close()
    # 20 was over before its turn came.
    assert remote.tags() == [tag_of(30)]
    assert logged == []


def test_a_checkpoint_that_vanishes_while_it_is_copied_is_no_failure(run: RunFolder, tmp_path: Path) -> None:
    class Vanishing(FolderPlace):
        def put_file(self, name: str, source: Path) -> None:
            if source.parent.name == tag_of(10) and source.exists():
                save(run, 20, keep=1)
            super().put_file(name, source)

    remote = RemoteRun(Vanishing(tmp_path / "remote"))
    save(run, 10)
    logged: list[str] = []
    uploader = Uploader(run, remote, CheckpointConfig(keep=1), 0, logged.append)
    uploader.close()
    uploader = Uploader(run, remote, CheckpointConfig(keep=1), 0, logged.append)
    uploader.close()
    assert logged == []
    assert remote.tags() == [tag_of(20)]


def test_a_bucket_does_all_that_a_folder_does(run: RunFolder, s3: str, tmp_path: Path) -> None:
    remote = RemoteRun(open_place(f"{s3}/runs/one"))
    for step in range(10, 60, 10):
        save(run, step, keep=2, keep_every=20)
        assert upload(run, remote, from_step=step, keep=2, keep_every=20, every=10) == []
    assert remote.tags() == checkpoint.complete_tags(run.checkpoints) == [tag_of(step) for step in (20, 40, 50)]
    new = RunFolder(tmp_path / "new")
    state = newest_whole(new, RemoteRun(open_place(remote.url)), ALONE, print)
    assert state is not None
    assert state.step == 50
    assert (new.checkpoints / tag_of(50) / "weights.pt").read_bytes() == b"weights of 50" * 1000
    remote.place.put(f"checkpoints/{tag_of(50)}/weights.pt", b"weights of nobody")
    state = newest_whole(RunFolder(tmp_path / "third"), remote, ALONE, print)
    assert state is not None
    assert state.step == 40
