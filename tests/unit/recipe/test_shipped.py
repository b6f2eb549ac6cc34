"""Shipped files are found by name and by their path in a checkout, from any folder; a user's own file wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.cli import main
from electra_scale.recipe.deepspeed_json import chosen_json, read_deepspeed_json
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.shipped import find_deepspeed_json, find_recipe, shipped_folder, shipped_names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds nothing of the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given", ["base", "recipes/base.yaml", "base.yaml"])
def test_a_shipped_recipe_is_found_from_any_folder(given: str) -> None:
    assert find_recipe(given) == shipped_folder("recipes") / "base.yaml"


def test_a_name_may_have_a_folder_and_a_dot() -> None:
    assert find_recipe("ablation/hp_loss_own_mixture_0.3").name == "hp_loss_own_mixture_0.3.yaml"
    assert {"tiny", "ablation/electra"} <= set(shipped_names("recipes", ".yaml"))


def test_a_file_that_exists_wins(elsewhere: Path) -> None:
    (elsewhere / "base").write_text("seed: 7\n")
    assert find_recipe("base") == Path("base")
    recipe, _ = parse_recipe(recipe_parser("test"), ["--config", "base"])
    assert recipe.seed == 7


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_the_command_line_takes_names_and_later_ones_win(form: str) -> None:
    arguments = " ".join(form.format(name) for name in ("base", "faithful")).split()
    recipe, _ = parse_recipe(recipe_parser("test"), [*arguments, "--seed", "3"])
    assert (recipe.model.discriminator.hidden, recipe.corruption.start_after, recipe.seed) == (768, 100, 3)


@pytest.mark.parametrize("name", shipped_names("recipes", ".yaml"))
def test_every_shipped_recipe_finds_its_deepspeed_json(name: str) -> None:
    recipe, _ = parse_recipe(recipe_parser("test"), ["--config", name])
    for bf16 in (False, True):
        assert read_deepspeed_json(chosen_json(recipe.deepspeed, bf16))["zero_optimization"]["stage"] == 2


def test_a_deepspeed_json_has_a_name_too() -> None:
    assert find_deepspeed_json("zero2") == find_deepspeed_json("ds_configs/zero2.json")
    with pytest.raises(UserError, match=r"DeepSpeed JSON zero9 does not exist; .*: zero1_bf16, zero2, zero2_bf16"):
        read_deepspeed_json("zero9")


@pytest.mark.parametrize("name", ["bas", "../recipes/base", "ablation", "recipes"])
def test_an_unknown_name_lists_what_is_shipped(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", name]) == 2
    error = capsys.readouterr().err
    assert f"recipe {name} does not exist" in error
    assert "base, faithful, large" in error
    assert error.count("\n") == 1
