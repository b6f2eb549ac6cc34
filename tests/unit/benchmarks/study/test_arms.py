"""The arms of the study: each differs from the base in what its question is about, and in nothing else."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any

import pytest
import yaml

from benchmarks.study.arms import Study, flat
from electra_scale.corruption.corruption import cost_of
from electra_scale.model.cost import training_flops
from electra_scale.recipe.parse import parse_recipe, recipe_parser, recipe_to_dict
from electra_scale.recipe.phases import phases, trained_parts
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
_MODERN = {"architecture.kind": "modern", "model.discriminator.ffn": 344, "model.generator.ffn": 344}
_HP_LOSS_FOCAL = {"corruption.sampler": "hp_loss", "corruption.focal_gamma": 1.0, "schedule.steps": 750}
_MLM = {
    "task.kind": "mlm",
    "data.mask_share": 0.4,
    "optimizer.learning_rate": 2e-3,
    "schedule.steps": 4840,
    "schedule.warmup_steps": 100,
    "generator_warmup.steps": 0,
    "generator_warmup.discriminator_from_generator": False,
    "checkpoint.every": 1210,
    "logging.evaluate_every": 1210,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    f"{architecture}_{objective}": {**encoder, **learned}
    for architecture, encoder in (("bert", {}), ("modern", _MODERN))
    for objective, learned in (("electra", {}), ("hp_loss_focal", _HP_LOSS_FOCAL), ("mlm", _MLM))
}


def _of_the_objective(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {arm: {f"corruption.{key}": value for key, value in settings.items()} for arm, settings in arms.items()}


STUDIES = {
    "ablation": _of_the_objective(ABLATION),
    "learned": _of_the_objective(LEARNED),
    "architectures": ARCHITECTURES,
}
"""Settings, by study and arm, that are not those of the base."""

every_arm = pytest.mark.parametrize(("study", "arm"), [(study, arm) for study, arms in STUDIES.items() for arm in arms])
every_study = pytest.mark.parametrize("study", STUDIES)


@cache
def parse(study: str, *names: str) -> Recipe:
    files = [part for name in names for part in ("--config", str(ROOT / "recipes" / study / f"{name}.yaml"))]
    return parse_recipe(recipe_parser("test"), files)[0]


@every_study
def test_every_arm_is_listed(study: str) -> None:
    assert {path.stem for path in (ROOT / "recipes" / study).glob("*.yaml")} == {"base", *STUDIES[study]}


@every_arm
def test_an_arm_changes_only_what_it_is_about(study: str, arm: str) -> None:
    base, changed = flat(recipe_to_dict(parse(study, "base"))), flat(recipe_to_dict(parse(study, "base", arm)))
    # What another kind of architecture or task has, or has not, comes with the kind.
    given = _without_kinds(changed, base)
    assert {key: value for key, value in given.items() if base.get(key) != value} == STUDIES[study][arm]
    assert set(given) == set(_without_kinds(base, changed))


def _without_kinds(settings: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Settings without those of a section whose kind is another one in ``other``; the kind itself stays."""
    changed = {
        key.removesuffix("kind") for key in settings if key.endswith(".kind") and settings[key] != other.get(key)
    }
    return {
        key: value
        for key, value in settings.items()
        if key.endswith(".kind") or not any(key.startswith(section) for section in changed)
    }


@every_arm
def test_an_arm_names_no_more_than_it_needs(study: str, arm: str) -> None:
    named = set(flat(yaml.safe_load((ROOT / "recipes" / study / f"{arm}.yaml").read_text())))
    # A size is written whole.
    same = {
        f"model.{network}.{size}"
        for network in ("discriminator", "generator")
        for size in ("layers", "hidden", "heads")
    }
    allowed = {"corruption.sampler", "corruption.temperature"} | (same if "model.generator.ffn" in named else set())
    assert named - set(STUDIES[study][arm]) <= allowed


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


def test_both_objectives_of_an_architecture_start_from_one_warm_up_and_masked_prediction_alone_from_none() -> None:
    study = Study(ROOT / "none", ROOT / "recipes/architectures", tuple(ARCHITECTURES), (0,))
    assert study.baseline == "bert_electra"
    names = {arm: None if warmup is None else warmup.suffix for arm, warmup in study.starts.items()}
    assert names == {
        "bert_electra": "",
        "bert_hp_loss_focal": "",
        "bert_mlm": None,
        "modern_electra": "-modern_electra",
        "modern_hp_loss_focal": "-modern_electra",
        "modern_mlm": None,
    }


def test_architectures_and_objectives_are_compared_at_equal_operations() -> None:
    # As the study's own table counts, with rows that are one document each.
    found = {arm: operations(parse("architectures", "base", arm)) for arm in ARCHITECTURES}
    assert max(found.values()) < 1.02 * min(found.values()), found


def operations(recipe: Recipe) -> float:
    """Of a whole run with the vocabulary of the study's store, in FLOP per position of a step."""
    config, length, rows = recipe.networks(4096), recipe.data.sequence_length, recipe.batch.global_batch
    total = 0.0
    for phase in phases(recipe):
        joint = phase.name == "joint"
        step = training_flops(config, length, phase.mask_share, joint, True, trained_parts(recipe, phase.name))
        masked = round(rows * length * phase.mask_share)
        head = cost_of(recipe.corruption, config).flops(masked) / (rows * length) if joint else 0.0
        total += (phase.last - phase.first) * (step + head)
    return total
