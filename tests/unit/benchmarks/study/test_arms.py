"""The arms of the study: each differs from the base in what its question is about, and in nothing else."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any

import pytest
import yaml

from electra_scale.recipe.parse import parse_recipe, recipe_parser, recipe_to_dict
from electra_scale.recipe.recipe import Recipe
from tests.support.fixtures.runs import ROOT

ABLATION: dict[str, dict[str, Any]] = {
    "electra": {},
    "temperature_1.5": {"sampler": "temperature"},
    "focal_1": {"focal_gamma": 1.0},
    "focal_2": {"focal_gamma": 2.0},
    "focal_4": {"focal_gamma": 4.0},
    "hp_loss_context": {"sampler": "hp_loss", "head.own_token": False},
    "hp_loss_context_start_100": {"sampler": "hp_loss", "head.own_token": False, "start_after": 100},
    "hp_loss_own": {"sampler": "hp_loss"},
    "two_scalars": {"sampler": "two_scalars"},
    "hp_loss_own_unweighted": {"sampler": "hp_loss", "weight_power": 0.0},
    "hp_dist": {"sampler": "hp_dist"},
    "hp_loss_own_focal": {"sampler": "hp_loss", "focal_gamma": 1.0},
    "hp_loss_shuffled": {"sampler": "hp_loss", "head.shuffled": True},
    "hp_loss_own_width_16": {"sampler": "hp_loss", "head.width": 16},
    "hp_loss_own_width_128": {"sampler": "hp_loss", "head.width": 128},
    "hp_loss_own_gradient": {"sampler": "hp_loss", "head.target": "gradient"},
    "hp_loss_own_mixture_0": {"sampler": "hp_loss", "mixture": 0.0},
    "hp_loss_own_mixture_0.3": {"sampler": "hp_loss", "mixture": 0.3},
    "hp_loss_own_mean": {"sampler": "hp_loss", "head.form": "mean"},
}
LEARNED: dict[str, dict[str, Any]] = {
    "electra": {},
    "focal_1": {"focal_gamma": 1.0},
    "temperature_1.5": {"sampler": "temperature"},
    "temperature_falling": {"sampler": "temperature", "temperature": 2.0, "temperature_end": 1.0},
    "no_original": {"allow_original": False},
    "hp_loss": {"sampler": "hp_loss"},
    "hp_loss_power_0.5": {"sampler": "hp_loss", "weight_power": 0.5},
    "hp_loss_unweighted": {"sampler": "hp_loss", "weight_power": 0.0},
    "hp_loss_focal": {"sampler": "hp_loss", "focal_gamma": 1.0},
    "hp_loss_power_0.5_focal": {"sampler": "hp_loss", "weight_power": 0.5, "focal_gamma": 1.0},
    "hp_loss_unweighted_focal": {"sampler": "hp_loss", "weight_power": 0.0, "focal_gamma": 1.0},
    "hp_loss_head_apart": {"sampler": "hp_loss", "head.reaches_encoder": False},
    "hp_dist": {"sampler": "hp_dist"},
    "hp_dist_unweighted": {"sampler": "hp_dist", "weight_power": 0.0},
    "two_scalars_unweighted": {"sampler": "two_scalars", "weight_power": 0.0},
}
STUDIES = {"ablation": ABLATION, "learned": LEARNED}
"""Settings of the objective, by study and arm, that are not those of the base."""

every_arm = pytest.mark.parametrize(("study", "arm"), [(study, arm) for study, arms in STUDIES.items() for arm in arms])
every_study = pytest.mark.parametrize("study", STUDIES)


@cache
def parse(study: str, *names: str) -> Recipe:
    files = [part for name in names for part in ("--config", str(ROOT / "recipes" / study / f"{name}.yaml"))]
    return parse_recipe(recipe_parser("test"), files)[0]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@every_study
def test_every_arm_is_listed(study: str) -> None:
    assert {path.stem for path in (ROOT / "recipes" / study).glob("*.yaml")} == {"base", *STUDIES[study]}


@every_arm
def test_an_arm_changes_only_what_it_is_about(study: str, arm: str) -> None:
    base, changed = flat(recipe_to_dict(parse(study, "base"))), flat(recipe_to_dict(parse(study, "base", arm)))
    differing = {key: value for key, value in changed.items() if base.get(key) != value}
    assert differing == {f"corruption.{key}": value for key, value in STUDIES[study][arm].items()}
    assert set(base) == set(changed)


@every_arm
def test_an_arm_names_no_more_than_it_needs(study: str, arm: str) -> None:
    named = set(flat(yaml.safe_load((ROOT / "recipes" / study / f"{arm}.yaml").read_text())))
    needed = {f"corruption.{key}" for key in STUDIES[study][arm]}
    assert named - needed <= {"corruption.sampler", "corruption.temperature"}


@every_study
def test_no_two_arms_are_the_same_recipe(study: str) -> None:
    recipes = {arm: flat(recipe_to_dict(parse(study, "base", arm))) for arm in STUDIES[study]}
    for one, other in combinations(recipes, 2):
        assert recipes[one] != recipes[other], (one, other)


@every_study
def test_the_base_is_plain_electra(study: str) -> None:
    base = parse(study, "base")
    assert (base.corruption.sampler, base.corruption.focal_gamma, base.model.dropout) == ("electra", 0.0, 0.0)


@every_study
def test_each_step_of_the_base_is_logged(study: str) -> None:
    assert parse(study, "base").logging.every == 1
