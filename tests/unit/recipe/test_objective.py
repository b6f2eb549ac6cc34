"""From the recipe's objective to a sampler, and what the recipe may not ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.head import SamplingHead
from electra_scale.recipe.objective import ObjectiveConfig, SamplingHeadConfig
from tests.unit.corruption.conftest import HIDDEN, MODEL, objective


def test_the_recipe_decides_the_sampler() -> None:
    kinds = {name: type(build_sampler(objective(name), MODEL, seed=0)).__name__ for name in ("hp_loss", "hp_dist")}
    assert kinds == {"hp_loss": "HardnessLossSampler", "hp_dist": "HardnessDistributionSampler"}
    for own_token in (True, False):
        sampler: Any = build_sampler(objective("hp_loss", own_token), MODEL, seed=0)
        assert isinstance(sampler.head, SamplingHead)
        assert (sampler.head.own_token is not None) == own_token
        assert sampler.head.features(torch.zeros(1, HIDDEN)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "default"),
    [("electra", False), ("temperature", False), ("hp_loss", True), ("hp_dist", True), ("two_scalars", True)],
)
def test_weights_are_on_for_the_hardness_samplers_unless_the_recipe_says_otherwise(name: str, default: bool) -> None:
    settings = objective(name)
    assert settings.weighted == default
    settings.importance_weights = not default
    assert settings.weighted == (not default)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"temperature": 0.0}, "objective.temperature"),
        ({"mixture": 1.1}, "objective.mixture"),
        ({"mixture": -0.1}, "objective.mixture"),
        ({"focal_gamma": -1.0}, "objective.focal_gamma"),
        ({"discriminator_weight": -1.0}, "objective.discriminator_weight"),
        ({"sampler_weight": -1.0}, "objective.sampler_weight"),
        ({"weight_clip": 0.0}, "objective.weight_clip"),
        ({"start_after": -1}, "objective.start_after"),
        ({"head": SamplingHeadConfig(clip=-1.0)}, "objective.head.clip"),
        ({"head": SamplingHeadConfig(width=0)}, "objective.head.width"),
        ({"head": SamplingHeadConfig(floor=0.0)}, "objective.head.floor"),
        ({"head": SamplingHeadConfig(learning_rate_scale=0.0)}, "objective.head.learning_rate_scale"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(change: dict[str, Any], key: str) -> None:
    assert ObjectiveConfig().problems() == []
    (problem,) = ObjectiveConfig(**change).problems()
    assert key in problem
