"""A run that is killed resumes: on other numbers of ranks, past a damaged checkpoint, from its copy in a bucket."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.checkpoint.remote_run import RemoteRun
from electra_scale.train.engine import universal
from tests.support.fixtures.runs import RECIPE, end, plain, ranks, rows, run, start
from tests.support.waiting import wait_for_rows

pytestmark = pytest.mark.slow

STEPS = 18
SLOWLY = ("--logging.evaluate_every", "1", "--logging.evaluate_samples", "256")
"""For starts that are killed: evaluations change no weight, and leave time to kill before the end."""


@pytest.fixture(scope="module")
def recipe(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both phases, float32, dropout 0, the learning sampler; every checkpoint is kept."""
    content = json.loads(json.dumps(RECIPE))
    content["data"]["store"] = str(store)
    content["checkpoint"] = {"every": 3, "keep": 30}
    content["logging"] |= {"evaluate_every": 100, "evaluate_samples": 4, "probe_every": 0}
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def recorded(number: int, recipe: Path, folder: Path, *more: str) -> list[str]:
    """Command of a run on some ranks that notes its batches."""
    arguments = ["--config", recipe, "--run_dir", folder / "run", "--resume", "auto", *more]
    return ranks(number, *arguments, module="tests.support.programs.recorded_run")


@pytest.fixture(scope="module")
def straight(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run on two ranks without a stop, which notes its batches."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECORD", str(folder / "record"))
        result = run(recorded(2, recipe, folder), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def global_batches(record: Path) -> dict[int, set[tuple[str, ...]]]:
    """For each step, the different global batches (digests of their rows, in order) that any start of a run trained."""
    parts: dict[tuple[str, int], dict[tuple[int, int], list[str]]] = defaultdict(dict)
    size = {}
    for file in record.glob("*.jsonl"):
        # A kill may cut the last line.
        for text in file.read_text().splitlines(keepends=True):
            if not text.endswith("\n"):
                continue
            line = json.loads(text)
            # Ranks of one start are of one size; each start has another.
            key = (str(line["size"]), line["step"])
            parts[key][line["rank"], line["micro"]] = line["rows"]
            size[key] = line["size"]
    found: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for (size_of_start, step), pieces in parts.items():
        batch = tuple(digest for place in sorted(pieces) for digest in pieces[place])
        # A killed start may have begun a step that not all of its ranks have begun.
        if len(batch) == RECIPE["batch"]["global_batch"]:
            found[step].add(batch)
        else:
            assert size_of_start in ("2", "1")
    return found


def kill_after(rows_wanted: int, command: list[str], folder: Path) -> str:
    """Start a run and SIGKILL all of it once the metrics have that many rows; its output."""
    process = start(command, folder)
    try:
        wait_for_rows(folder / "run", rows_wanted, process, 300)
    finally:
        end(process)
    assert process.stdout is not None
    return process.stdout.read()


def flip(checkpoint_folder: Path) -> None:
    """Change one bit of what a rank has written."""
    path = next(checkpoint_folder.glob("*pp_rank_0_*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_two_ranks_then_one_then_four_train_what_two_ranks_train(
    straight: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    # The first kill falls into the generator's warm-up, the second into the joint phase.
    kill_after(4, recorded(2, recipe, tmp_path, *SLOWLY), tmp_path)
    assert 3 <= newest_step(tmp_path) < 6
    said = kill_after(11, recorded(1, recipe, tmp_path, *SLOWLY), tmp_path)
    assert "was written by 2 ranks and is converted for 1" in said
    damaged = newest_step(tmp_path)
    assert 9 <= damaged < STEPS
    # The last start has to resume from the checkpoint before the newest.
    flip(tmp_path / "run/checkpoints" / checkpoint.tag_of(damaged))
    result = run(recorded(4, recipe, tmp_path), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = (line for line in result.stdout.splitlines() if "cannot be used" in line)
    assert line.startswith(f"checkpoint {checkpoint.tag_of(damaged)} cannot be used (the checksum of zero_pp_rank_0_")
    assert line.endswith(f"kept as damaged-{checkpoint.tag_of(damaged)}; the one before is taken")
    assert line in (tmp_path / "run/log.txt").read_text()
    assert f"resuming from step {damaged - 3}:" in result.stdout
    assert "was written by 1 rank and is converted for 4" in result.stdout

    wanted, found = global_batches(straight / "record"), global_batches(tmp_path / "record")
    assert set(found) == set(wanted) == set(range(STEPS))
    assert all(len(batches) == 1 for batches in wanted.values())
    assert found == wanted
    ours, theirs = rows(tmp_path / "run"), rows(straight / "run")
    assert [row["step"] for row in ours] == list(range(1, STEPS + 1))
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("loss/total", "loss/generator", "loss/discriminator", "loss/sampler", "optim/grad_norm"):
            if name in other:
                assert mine[name] == pytest.approx(other[name], rel=1e-4), (name, other["step"])


def newest_step(folder: Path) -> int:
    tags = checkpoint.complete_tags(folder / "run/checkpoints")
    return checkpoint.step_of(tags[-1])


def tensors(path: Path) -> dict[str, Any]:
    """Everything in a universal checkpoint that training resumes from."""
    found = {}
    for file in sorted((path / "zero").rglob("*.pt")):
        content = torch.load(file, weights_only=False)
        if file.name == "optimizer_state.pt":
            content = [
                {key: value for key, value in group.items() if key != "params"} for group in content["param_groups"]
            ]
        elif isinstance(content, dict):
            content = content["param"]
        found[file.relative_to(path).as_posix()] = content
    weights = torch.load(path / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    return found | {f"weights {name}": value for name, value in weights.items()}


def test_weights_moments_counts_and_rates_are_the_same_bits_on_another_number_of_ranks(
    straight: Path, recipe: Path, tmp_path: Path
) -> None:
    """Of both phases, with what the warm-up does not train: loaded on one rank, saved again, and compared."""
    tags = ["step-00000003", "step-00000012"]
    folder = copy_of(straight, tmp_path, tags)
    content = yaml.safe_load((folder / "run/recipe.yaml").read_text())
    content["run_dir"] = "run"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    result = run(plain(*tags, module="tests.support.programs.resaved_checkpoints"), folder)
    assert result.returncode == 0, result.stdout + result.stderr
    for tag in tags:
        before = tensors(folder / "run/checkpoints" / tag / "universal")
        after = tensors(universal.convert(folder / "again" / tag))
        assert before.keys() == after.keys()
        assert any(name.endswith("/exp_avg_sq.pt") for name in before)
        assert any(name.endswith("/step.pt") for name in before)
        assert len(before["zero/optimizer_state.pt"]) > 1
        for name, value in before.items():
            same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
            assert same, name
    samplers = [torch.load(part / tags[1] / "sampler.pt") for part in (folder / "run/checkpoints", folder / "again")]
    torch.testing.assert_close(samplers[0], samplers[1], rtol=0, atol=0)


def copy_of(straight: Path, target: Path, tags: list[str]) -> Path:
    """A run folder, ``run``, with some of the checkpoints of the straight one."""
    shutil.copytree(straight / "run", target / "run", ignore=shutil.ignore_patterns("step-*", "tensorboard"))
    for tag in tags:
        shutil.copytree(straight / "run/checkpoints" / tag, target / "run/checkpoints" / tag)
    return target


def test_a_conversion_that_is_killed_leaves_nothing_that_is_taken_for_a_finished_one(
    straight: Path, tmp_path: Path
) -> None:
    tag = "step-00000012"
    folder = copy_of(straight, tmp_path, [tag]) / "run/checkpoints" / tag
    whole = sorted(path.name for path in folder.iterdir())
    killed = run(plain(folder, "100", module="tests.support.programs.killed_conversion"), tmp_path)
    assert killed.returncode == -9
    (left,) = {path.name for path in folder.iterdir()} - set(whole)
    assert left.startswith("universal.partial-")
    assert checksums.problem(folder) is None
    made = universal.convert(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*whole, "universal"])
    assert checksums.problem(made) is None
    identity = made.stat().st_ino
    assert universal.convert(folder).stat().st_ino == identity
    # One that was damaged afterwards is made again.
    (made / "zero/optimizer_state.pt").write_bytes(b"")
    universal.convert(folder)
    assert checksums.problem(made) is None


def test_a_disk_without_space_for_the_conversion_is_reported_in_one_line(straight: Path, tmp_path: Path) -> None:
    tag = "step-00000012"
    folder = copy_of(straight, tmp_path, [tag]) / "run/checkpoints" / tag
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(UserError, match=r"could not be converted for another number of ranks .* look at the space"):
            universal.convert(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(folder.glob("universal*"))


def test_a_run_whose_machine_is_lost_resumes_from_its_copy_in_a_bucket(
    straight: Path, recipe: Path, s3: str, tmp_path: Path
) -> None:
    """Nothing is left but the bucket: the same losses, and every row of the log once."""
    remote = RemoteRun(open_place(f"{s3}/runs/one"))
    arguments = ("--config", recipe, "--run_dir", tmp_path / "run", "--checkpoint.upload", remote.url)
    process = start(plain(*arguments, *SLOWLY), tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not (found := remote.tags()) or found[-1] < "step-00000006":
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
    finally:
        end(process)
    assert found[-1] < checkpoint.tag_of(STEPS), "the kill came too late to test anything"
    shutil.rmtree(tmp_path / "run")
    result = run(plain(*arguments, "--resume", "auto"), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"was fetched from {remote.url}" in result.stdout
    ours, theirs = rows(tmp_path / "run"), rows(straight / "run")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss/total"] == pytest.approx(other["loss/total"], rel=1e-4), other["step"]
    assert remote.tags()[-1] == checkpoint.tag_of(STEPS)
    assert remote.place.read("metrics.jsonl") == (tmp_path / "run/metrics.jsonl").read_bytes()
