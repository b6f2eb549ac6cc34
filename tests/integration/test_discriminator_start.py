"""The discriminator starts from the warmed-up generator, whatever happens around the border of the phases."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from electra_scale.model.electra import Electra
from electra_scale.recipe.parse import recipe_of_run
from electra_scale.train.checkpoint import state as checkpoint
from electra_scale.train.engine.engine import consolidated_weights
from tests.support.fixtures.runs import plain, ranks, rows, run, write_recipe

pytestmark = pytest.mark.slow

BORDER = 6
RATE = 1e-9
"""Of the joint phase: so small that the weights after its first step are those it started with."""
CHANGES = {
    "model.generator": {"layers": 2, "hidden": 48, "ffn": 64, "heads": 2},
    "model.discriminator": {"layers": 2, "hidden": 48, "ffn": 64, "heads": 2},
    "generator_warmup.discriminator_from_generator": True,
    "optimizer.learning_rate": RATE,
    "optimizer.generator_rate": 0.0,
    "schedule": {"steps": 3, "warmup_steps": 0},
    "checkpoint": {"every": 1, "keep": 30},
    "logging.probe_every": 0,
}


def command(number: int, *arguments: str | Path) -> list[str]:
    return plain(*arguments) if number == 1 else ranks(number, *arguments)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Callable[[int], tuple[Path, Path]]:
    """A finished run on so many ranks with a checkpoint of every step, and its recipe."""
    known: dict[int, tuple[Path, Path]] = {}

    def start(number: int) -> tuple[Path, Path]:
        if number not in known:
            folder = tmp_path_factory.mktemp(f"on-{number}")
            path = write_recipe(folder, store, **CHANGES)
            result = run(command(number, "--config", path, "--run_dir", folder / "run"), folder)
            assert len(checkpoint.complete_tags(folder / "run/checkpoints")) == BORDER + 3, result.stderr
            known[number] = folder / "run", path
        return known[number]

    return start


def part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"electra.{name}."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def at(folder: Path, step: int) -> dict[str, Tensor]:
    return consolidated_weights(folder / "checkpoints", f"step-{step:08d}")


def assert_near(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal, but for one step at the joint phase's rate."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= 100 * RATE, name


@pytest.mark.parametrize("number", [1, 2])
def test_the_joint_phase_starts_with_the_generators_encoder_and_a_fresh_head_and_moments(
    number: int, started: Callable[[int], tuple[Path, Path]]
) -> None:
    folder, _ = started(number)
    end, first = at(folder, BORDER), at(folder, BORDER + 1)
    assert "project.weight" in part(end, "generator")
    assert_near(part(first, "discriminator"), part(end, "generator"))
    assert_near(part(first, "generator"), part(end, "generator"))
    recipe = recipe_of_run(folder / "recipe.yaml")
    fresh = Electra(recipe.networks(len(end["electra.embeddings.word.weight"])), recipe.seed).discriminator_head
    assert_near(part(first, "discriminator_head"), fresh.state_dict())
    for file in (folder / "checkpoints" / f"step-{BORDER + 1:08d}").glob("*optim_states.pt"):
        state = torch.load(file, map_location="cpu", weights_only=False)["optimizer_state_dict"]
        groups = state["base_optimizer_state"]["state"].values()
        assert {int(group["step"]) for group in groups} == {1}, file
    said = "the discriminator's encoder starts as the generator's of step 6; its head is fresh"
    assert (folder / "log.txt").read_text().count(said) == 1


@pytest.mark.parametrize(("stop", "number"), [(6, 2), (7, 1)])
def test_a_run_resumes_on_either_side_of_the_border_and_on_it(
    stop: int, number: int, started: Callable[[int], tuple[Path, Path]], tmp_path: Path
) -> None:
    reference, recipe = started(2)
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    for tag in checkpoint.complete_tags(folder / "checkpoints")[stop:]:
        (folder / "checkpoints" / tag / "run_state.json").unlink()
    result = run(command(number, "--config", recipe, "--run_dir", folder, "--resume", "auto"), tmp_path)
    assert f"resuming from step {stop}" in result.stdout, result.stderr
    if number == 2:
        assert rows(folder) == rows(reference)
    else:
        assert_near(part(at(folder, BORDER + 1), "discriminator"), part(at(reference, BORDER), "generator"))
        last, expected = rows(folder)[-1], rows(reference)[-1]
        assert last["loss/total"] == pytest.approx(expected["loss/total"], rel=1e-4)


def test_after_init_from_the_generators_encoder_replaces_the_discriminators_and_its_head_stays(
    started: Callable[[int], tuple[Path, Path]], store: Path, tmp_path: Path
) -> None:
    from electra_scale.export.run import export_run

    exported = tmp_path / "exported"
    export_run(started(1)[0], exported)
    path = write_recipe(tmp_path, store, **CHANGES, **{"model.init_from": str(exported)})
    result = run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    assert f"its head stays that of {exported}" in result.stdout, result.stderr
    first = at(tmp_path / "run", BORDER + 1)
    assert_near(part(first, "discriminator"), part(at(tmp_path / "run", BORDER), "generator"))
    assert_near(part(first, "discriminator_head"), part(at(started(1)[0], BORDER + 3), "discriminator_head"))
