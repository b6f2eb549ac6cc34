"""Promises of a run: what it writes, that it survives, that its numbers are right."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from electra_scale.corruption.corruption import Clock
from electra_scale.data.loader import Loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.model.attention.layout import Layout
from electra_scale.optim.adamw import AdamW
from electra_scale.optim.parts import parts_of
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.phases import learning_rate, phases
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import build_module
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.engine.precision import has_bf16
from tests.support.fixtures.metric_tags import EVALUATION_TAGS, JOINT_TAGS
from tests.support.fixtures.runs import ROOT, end, launched, plain, ranks, rows, run, start, write_recipe
from tests.support.waiting import row_count, wait_for_rows

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[Path, Path]:
    """A finished run on two ranks, and its recipe."""
    folder = tmp_path_factory.mktemp("straight")
    path = write_recipe(folder, store)
    result = run(launched(2, "--config", path, "--run_dir", folder / "run", port=29611), folder)
    assert checkpoint.newest(folder / "run/checkpoints") is not None, result.stdout + result.stderr
    return folder / "run", path


def test_a_run_leaves_what_it_promises(straight: tuple[Path, Path]) -> None:
    folder, _ = straight
    state = checkpoint.newest(folder / "checkpoints")
    assert state is not None
    assert state.finished
    assert state.step == 18
    assert state.world_size == 2
    for name in ("recipe.yaml", "deepspeed.json", "versions.json", "data.json", "log.txt", "tokenizer/tokenizer.json"):
        assert (folder / name).is_file(), name
    assert checkpoint.complete_tags(folder / "checkpoints") == ["step-00000016", "step-00000018"]
    assert [row["step"] for row in rows(folder)] == list(range(1, 19))
    assert "joint step 18/18" in (folder / "log.txt").read_text()


def test_tensorboard_shows_every_tag_with_the_values_of_the_metrics_file(straight: tuple[Path, Path]) -> None:
    folder, _ = straight
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    shown = events.Tags()["scalars"]
    assert set(JOINT_TAGS) <= set(shown)
    assert set(EVALUATION_TAGS) <= set(shown)
    # No discriminator is trained in the warm-up, so there is none whose preferences could be shown.
    warm_up = [row for row in rows(folder) if row["phase"] == "generator_warmup"]
    assert any("eval/generator_accuracy" in row for row in warm_up)
    assert not any(name.startswith("eval/pairs") for row in warm_up for name in row)
    for row in rows(folder):
        for name, value in row.items():
            if name in ("step", "phase") or value is None:
                continue
            points = {event.step: event.value for event in events.Scalars(name)}
            assert points[row["step"]] == pytest.approx(value, rel=1e-6)


def test_the_sampler_starts_as_plain_electra_and_then_leaves_it(straight: tuple[Path, Path]) -> None:
    joint = [row for row in rows(straight[0]) if row["phase"] == "joint"]
    assert joint[0]["sampling/weight_max"] == pytest.approx(1.0, abs=1e-6)
    assert joint[0]["sampling/ess"] == pytest.approx(1.0, abs=1e-6)
    assert joint[-1]["sampling/weight_max"] > 1.0


def test_a_killed_run_resumes_with_the_same_losses_bit_for_bit(straight: tuple[Path, Path], tmp_path: Path) -> None:
    reference, recipe = straight
    folder = tmp_path / "run"
    arguments = ("--config", recipe, "--run_dir", folder, "--resume", "auto")
    process = start(ranks(2, *arguments), tmp_path)
    try:
        # In the joint phase, some steps past a checkpoint.
        wait_for_rows(folder, 10, process)
    finally:
        end(process)
    killed_at = row_count(folder)
    state = checkpoint.newest(folder / "checkpoints")
    assert state is not None
    assert 0 < state.step < 18, "the kill came too late to test anything"
    result = run(launched(2, *arguments, port=29613), tmp_path)
    assert "resuming from step" in result.stdout, result.stderr
    resumed = rows(folder)
    assert [row["step"] for row in resumed] == list(range(1, 19)), f"killed after {killed_at} rows"
    assert resumed == rows(reference)


EVERY_STEP = ("--checkpoint.every", "1", "--checkpoint.keep", "30")


@pytest.fixture(scope="module")
def saved_at_every_step(straight: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("every-step")
    result = run(ranks(2, "--config", straight[1], "--run_dir", folder / "run", *EVERY_STEP), folder)
    assert len(checkpoint.complete_tags(folder / "run/checkpoints")) == 18, result.stderr
    return folder / "run"


@pytest.mark.parametrize("stop", [5, 6, 7])
def test_a_run_resumes_around_the_end_of_the_generator_warmup(
    stop: int, straight: tuple[Path, Path], saved_at_every_step: Path, tmp_path: Path
) -> None:
    """The last checkpoint of the warm-up leads into the joint phase as if nothing had happened."""
    reference, recipe = straight
    folder = tmp_path / "run"
    shutil.copytree(saved_at_every_step, folder)
    for tag in checkpoint.complete_tags(folder / "checkpoints")[stop:]:
        (folder / "checkpoints" / tag / "run_state.json").unlink()
    result = run(ranks(2, "--config", recipe, "--run_dir", folder, *EVERY_STEP, "--resume", "auto"), tmp_path)
    assert f"resuming from step {stop}" in result.stdout, result.stderr
    assert rows(folder) == rows(reference)


def reference_loop(recipe: Recipe, steps: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of plain PyTorch on whole global batches: no ranks, no micro-batches, no engine."""
    store = Store(recipe.data.store)
    special = special_tokens(store.tokenizer_dir)
    data = recipe.data
    loader = Loader(Split(store, "train", special, data), recipe.seed, recipe.batch.global_batch)
    config = recipe.networks(store.manifest.tokenizer.vocab_size)
    module = build_module(recipe, config, special, "joint")
    settings = recipe.optimizer
    parts = [part for part in parts_of(module, settings) if not part.replicated]
    optimizer = torch.optim.AdamW(
        AdamW(settings).groups(parts),
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    head = list(module.sampler.parameters())
    decayed = [
        {"params": [p for p in head if (p.dim() > 1) == matrices], "weight_decay": settings.weight_decay * matrices}
        for matrices in (True, False)
    ]
    head_optimizer = torch.optim.AdamW(decayed, betas=settings.betas, eps=settings.eps) if head else None
    (plan,) = phases(recipe)
    found = []
    for step in range(steps):
        batch = loader.batch(step, 0, recipe.batch.global_batch, data.mask_share)
        counts = {"masked": torch.tensor(float(len(batch.masked))), "tokens": (batch.segment >= 0).sum().float()}
        optimizer.zero_grad()
        clock = Clock(step, 0, "joint", step)
        loss, _ = module(batch, Layout.of(batch.segment), clock, counts, 1.0, False)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.electra.parameters(), settings.clip)
        for updated in (optimizer, head_optimizer) if head_optimizer else (optimizer,):
            for group in updated.param_groups:
                group["lr"] = learning_rate(plan, step, recipe)
        if head_optimizer is not None:
            torch.nn.utils.clip_grad_norm_(head, recipe.corruption.head.clip)
            head_optimizer.step()
            head_optimizer.zero_grad()
        optimizer.step()
        found.append((float(loss.detach()), float(norm)))
    return found


@pytest.mark.parametrize("sampler", ["electra", "temperature", "hp_loss", "hp_dist", "two_scalars"])
def test_zero2_on_two_ranks_equals_plain_pytorch(sampler: str, recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(
        **{
            "corruption.sampler": sampler,
            "generator_warmup.steps": 0,
            "schedule.steps": 20,
            # Two micro-batches a rank, so that accumulation is part of the comparison.
            "batch.most_per_device": 2,
            "logging.evaluate_every": 100,
            "checkpoint.every": 100,
        }
    )
    result = run(ranks(2, "--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    ours = rows(tmp_path / "run")
    assert len(ours) == 20, result.stderr
    recipe, _ = parse_recipe(recipe_parser("test"), ["--config", str(path)])
    for row, (loss, norm) in zip(ours, reference_loop(recipe, 20), strict=True):
        assert row["loss/total"] == pytest.approx(loss, rel=1e-4), row["step"]
        assert row["optim/grad_norm"] == pytest.approx(norm, rel=1e-4), row["step"]


def test_one_plain_process_trains_what_two_ranks_train(straight: tuple[Path, Path], tmp_path: Path) -> None:
    reference, recipe = straight
    result = run(plain("--config", recipe, "--run_dir", tmp_path / "run"), tmp_path, fresh=True)
    assert result.returncode == 0, result.stderr
    for ours, theirs in zip(rows(tmp_path / "run"), rows(reference), strict=True):
        assert ours["loss/total"] == pytest.approx(theirs["loss/total"], rel=1e-4), ours["step"]


def test_torchrun_starts_it_too(straight: tuple[Path, Path], tmp_path: Path) -> None:
    reference, recipe = straight
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29650"]
    command += ["-m", "electra_scale.pretrain", "--config", str(recipe), "--run_dir", str(tmp_path / "run")]
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "run") == rows(reference)


@pytest.mark.parametrize("file", ["zero2_bf16.json", "zero1_bf16.json"])
def test_bf16_trains_and_resumes(file: str, recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(deepspeed=str(ROOT / "ds_configs" / file), **{"schedule.steps": 4, "batch.most_per_device": 2})
    result = run(ranks(2, "--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == list(range(1, 11)), result.stderr
    assert all(math.isfinite(row["loss/total"]) for row in found)
    tags = checkpoint.complete_tags(tmp_path / "run/checkpoints")
    (tmp_path / "run/checkpoints" / tags[-1] / "run_state.json").unlink()
    run(ranks(2, "--config", path, "--run_dir", tmp_path / "run", "--resume", "auto"), tmp_path)
    assert rows(tmp_path / "run") == found


def test_auto_trains_and_resumes_in_the_precision_that_the_device_has_instructions_for(
    recipe_file: RecipeFile, tmp_path: Path
) -> None:
    path = recipe_file(deepspeed="auto", **{"schedule.steps": 2})
    folder = tmp_path / "run"
    command = plain("--config", path, "--run_dir", folder)
    assert run(command, tmp_path).returncode == 0
    bf16 = has_bf16(torch.device("cpu"))
    file = f"ds_configs/{'zero2_bf16' if bf16 else 'zero2'}.json"
    said = f"deepspeed: auto takes {file}: cpu has {'' if bf16 else 'no '}instructions for bf16"
    assert said in (folder / "log.txt").read_text()
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["deepspeed"] == file
    assert json.loads((folder / "deepspeed.json").read_text()).get("bf16", {}).get("enabled", False) == bf16
    found = rows(folder)
    (folder / "checkpoints" / checkpoint.complete_tags(folder / "checkpoints")[-1] / "run_state.json").unlink()
    assert run([*command, "--resume", "auto"], tmp_path).returncode == 0
    assert rows(folder) == found


def test_dropout_and_what_changes_over_a_run_are_keyed_so_that_resume_stays_exact(
    recipe_file: RecipeFile, tmp_path: Path
) -> None:
    """With partial weights of a falling temperature, and without originals."""
    falling = {"sampler": "temperature", "temperature": 2.0, "temperature_end": 1.0}
    partial = {"weight_power": 0.5, "allow_original": False}
    settings = {f"corruption.{name}": value for name, value in (falling | partial).items()}
    path = recipe_file(**{"model.dropout": 0.1, "model.attention_dropout": 0.1}, **settings)
    folder = tmp_path / "run"
    result = run(plain("--config", path, "--run_dir", folder), tmp_path)
    assert result.returncode == 0, result.stderr
    found = rows(folder)
    assert all(row["sampling/identical_rate"] == 0 for row in found if row["phase"] == "joint")
    tags = checkpoint.complete_tags(folder / "checkpoints")
    (folder / "checkpoints" / tags[-1] / "run_state.json").unlink()
    result = run(plain("--config", path, "--run_dir", folder, "--resume", "auto"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(folder) == found


def test_draws_a_step_ahead_are_weighted_logged_and_resumed_exactly(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(**{"corruption.look_ahead": True})
    folder = tmp_path / "run"
    result = run(plain("--config", path, "--run_dir", folder), tmp_path)
    assert result.returncode == 0, result.stderr
    found = rows(folder)
    joint = {row["step"]: row for row in found if row["phase"] == "joint"}
    # The first joint step and those after a checkpoint (every 4) draw afresh.
    assert {step: row["sampling/staleness"] for step, row in joint.items()} == {
        step: 0.0 if step == 7 or step % 4 == 1 else 1.0 for step in range(7, 19)
    }
    assert all((row["sampling/staleness_drift"] > 0) == (row["sampling/staleness"] > 0) for row in joint.values())
    tags = checkpoint.complete_tags(folder / "checkpoints")
    (folder / "checkpoints" / tags[-1] / "run_state.json").unlink()
    result = run(plain("--config", path, "--run_dir", folder, "--resume", "auto"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(folder) == found


def test_a_finished_run_does_nothing_more_unless_it_is_given_more_steps(
    straight: tuple[Path, Path], tmp_path: Path
) -> None:
    reference, recipe = straight
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    command = ranks(2, "--config", recipe, "--run_dir", folder, "--resume", "auto")
    result = run(command, tmp_path)
    assert "finished at step 18" in result.stdout, result.stderr
    assert rows(folder) == rows(reference)
    run([*command, "--schedule.steps", "14"], tmp_path)
    assert [row["step"] for row in rows(folder)] == list(range(1, 21))
