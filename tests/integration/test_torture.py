"""One run, killed at every kind of moment: it resumes as if nothing had happened. ``make torture`` does it 25 times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipeline.places.open import open_place
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.lifecycle.status import read_status
from tests.support.fixtures.faults import FaultyProxy
from tests.support.fixtures.runs import RECIPE
from tests.torture.attempts import Attempts
from tests.torture.disk import MOUNT, small_disk
from tests.torture.launcher import Launcher
from tests.torture.plan import MOMENTS, RANKS, Amount, plan
from tests.torture.view import RunView

pytestmark = pytest.mark.slow

EVERY = 4


@pytest.fixture
def launcher(faulty_s3: FaultyProxy) -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


def recipe(folder: Path, store: Path, steps: int) -> Path:
    """Both phases, dropout, the learning sampler drawing ahead: all the state that a run can have."""
    content = json.loads(json.dumps(RECIPE))
    content["data"]["store"] = str(store)
    content["model"] |= {"dropout": 0.1, "attention_dropout": 0.1}
    content["corruption"] |= {"look_ahead": True, "mixture": 0.1}
    content["generator_warmup"] = {"steps": 6, "warmup_steps": 2}
    content["schedule"] = {"steps": steps - 6, "warmup_steps": 4}
    content["checkpoint"] = {"every": EVERY, "keep": 2, "keep_every": 40}
    content["logging"] |= {"evaluate_every": 10, "evaluate_samples": 256, "probe_every": 30}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run_straight(launcher: Launcher, view: RunView, arguments: list[str], output: Path) -> list[float]:
    """The undisturbed run; seconds that each row took."""
    attempt = launcher.start(RANKS, output, *arguments)
    seen: list[float] = [time.monotonic()]
    while not attempt.over(0.002):
        seen += [time.monotonic()] * (view.row_count() + 1 - len(seen))
    assert attempt.code == 0, attempt.output_text()
    seen += [time.monotonic()] * (view.row_count() + 1 - len(seen))
    return [after - before for before, after in pairwise(seen)]


def slow_line(bucket: FaultyProxy) -> None:
    """An upload takes as long as the steps up to the next save, a fetch as long as a start."""
    bucket.upload_bytes_per_second = 2e6
    bucket.every["delay"] = 1
    bucket.delay_seconds = 0.1
    bucket.only = lambda method, path: method == "GET" and "/checkpoints/step-" in path.partition("?")[0]


def test_a_run_that_is_killed_at_every_kind_of_moment_equals_the_straight_run(
    launcher: Launcher, store: Path, faulty_s3: FaultyProxy, tmp_path: Path, require_part: Callable[[bool, str], None]
) -> None:
    amount = Amount.of_environment()
    slow_line(faulty_s3)
    with small_disk(tmp_path / "disk", megabytes=48) as disk:
        moments = MOMENTS if disk else tuple(moment for moment in MOMENTS if moment != "full disk")
        kills = plan(amount, moments)
        steps = 5 * len(kills) + 24
        arguments = ["--config", str(recipe(tmp_path, store, steps)), "--resume", "auto", "--run_dir"]
        straight = RunView(tmp_path / "straight", RemoteRun(open_place(f"{faulty_s3.url}/nothing")))
        pace = run_straight(launcher, straight, [*arguments, str(straight.folder)], tmp_path / "straight.txt")

        view = RunView(tmp_path / "disk/run", RemoteRun(open_place(f"{faulty_s3.url}/runs/one")))
        outputs = tmp_path / "attempts"
        outputs.mkdir()
        arguments += [str(view.folder), "--checkpoint.upload", view.remote.url]
        attempts = Attempts(launcher, view, arguments, EVERY, straight.rows(), pace, disk, outputs)
        attempts.endure(kills, amount)
        attempts.finish()
        print(attempts.report())

        assert read_status(view.folder).finished
        assert view.rows() == straight.rows()
        assert [row["step"] for row in view.rows()] == list(range(1, steps + 1))
        expect_same_board(view)
        expect_same_checkpoint(view, straight, checkpoint.tag_of(steps))
        expect_whole_copy(view, checkpoint.tag_of(steps), tmp_path)
        expect_nothing_left(view)
    # Last, so that without it everything else is tortured all the same.
    require_part(disk is not None, MOUNT)


def expect_same_board(view: RunView) -> None:
    """TensorBoard shows each step once, with the values of the metrics file."""
    events = EventAccumulator(str(view.folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    wanted: dict[str, list[int]] = {}
    for row in view.rows():
        for name in row.keys() - {"step", "phase"}:
            wanted.setdefault(name, []).append(row["step"])
    assert wanted
    for name, steps in wanted.items():
        assert [event.step for event in events.Scalars(name)] == steps, name


def expect_same_checkpoint(view: RunView, straight: RunView, tag: str) -> None:
    """Every tensor and number of the last checkpoint: weights, moments, sampler, counters, the loader's state."""
    ours, theirs = view.checkpoints / tag, straight.checkpoints / tag
    names = sorted(path.name for path in ours.glob("*.pt"))
    assert len(names) == 2 + RANKS
    assert names == sorted(path.name for path in theirs.glob("*.pt"))
    compared = 0
    for name in names:
        mine, other = (torch.load(folder / name, weights_only=False) for folder in (ours, theirs))
        compared += compare(mine, other, name)
    assert compared > 100
    states = [json.loads((folder / "run_state.json").read_text()) for folder in (ours, theirs)]
    for state in states:
        # What a clock decides.
        del state["seconds"]
    assert states[0] == states[1]


def compare(mine: Any, other: Any, where: str) -> int:
    """Fail where two values differ in a bit; how many tensors they hold."""
    if isinstance(mine, torch.Tensor):
        assert mine.dtype == other.dtype, where
        assert torch.equal(mine, other), where
        return 1
    if isinstance(mine, dict):
        assert list(mine) == list(other), where
        return sum(compare(mine[key], other[key], f"{where}/{key}") for key in mine)
    if isinstance(mine, list | tuple):
        assert len(mine) == len(other), where
        pairs = zip(mine, other, strict=True)
        return sum(compare(*pair, f"{where}/{number}") for number, pair in enumerate(pairs))
    if type(mine).__eq__ is object.__eq__:
        assert type(mine) is type(other), where
        return compare(vars(mine), vars(other), where) if hasattr(mine, "__dict__") else 0
    assert mine == other, where
    return 0


def expect_whole_copy(view: RunView, tag: str, folder: Path) -> None:
    """The bucket has the last checkpoint and the log."""
    assert view.remote.tags()[-1] == tag
    view.remote.fetch_checkpoint(tag, folder / "fetched")
    assert view.remote.place.read("metrics.jsonl") == (view.folder / "metrics.jsonl").read_bytes()


def expect_nothing_left(view: RunView) -> None:
    """No unfinished checkpoint, here or in the bucket."""
    kept = checkpoint.complete_tags(view.checkpoints)
    assert sorted(path.name for path in view.checkpoints.iterdir() if path.is_dir()) == kept
    assert not list(view.folder.glob("owner*"))
    assert view.uploading() == {}
