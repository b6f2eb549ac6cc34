"""From the recipe's corruption to a sampler, and what the recipe may not ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.head import SamplingHead
from electra_scale.recipe.corruption import GeneratorSettings, SamplingHeadSettings
from electra_scale.recipe.task import ReplacedTokensSettings
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
    assert settings.power == default
    settings.weight_power = 0.5
    assert settings.power == 0.5


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"temperature": 0.0}, "corruption.temperature"),
        ({"sampler": "temperature", "temperature_end": 0.0}, "corruption.temperature_end"),
        ({"sampler": "hp_dist", "temperature_end": 1.0}, "corruption.temperature_end"),
        ({"weight_power": -0.1}, "corruption.weight_power"),
        ({"weight_power": 1.1}, "corruption.weight_power"),
        ({"weight_power": float("nan")}, "corruption.weight_power"),
        ({"mixture": 1.1}, "corruption.mixture"),
        ({"mixture": -0.1}, "corruption.mixture"),
        ({"focal_gamma": -1.0}, "corruption.focal_gamma"),
        ({"sampler_weight": -1.0}, "corruption.sampler_weight"),
        ({"weight_clip": 0.0}, "corruption.weight_clip"),
        ({"start_after": -1}, "corruption.start_after"),
        ({"head": SamplingHeadSettings(clip=-1.0)}, "corruption.head.clip"),
        ({"head": SamplingHeadSettings(width=0)}, "corruption.head.width"),
        ({"head": SamplingHeadSettings(floor=0.0)}, "corruption.head.floor"),
        ({"head": SamplingHeadSettings(learning_rate_scale=0.0)}, "corruption.head.learning_rate_scale"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(change: dict[str, Any], key: str) -> None:
    assert GeneratorSettings().problems() == []
    (problem,) = GeneratorSettings(**change).problems()
    assert key in problem


@pytest.mark.parametrize(
    ("name", "change", "keys"),
    [
        ("hp_loss", {}, ()),
        ("hp_loss", {"weight_power": 0.5}, ("corruption.weight_power 0.5",)),
        ("temperature", {}, ("corruption.weight_power 0",)),
        ("temperature", {"weight_power": 1.0}, ()),
        ("electra", {"weight_power": 0.0}, ()),
        ("electra", {"allow_original": False}, ("corruption.allow_original false",)),
        (
            "two_scalars",
            {"weight_power": 0.0, "allow_original": False},
            ("corruption.weight_power 0", "corruption.allow_original false"),
        ),
    ],
)
def test_settings_for_which_the_objective_is_another_one_are_named(
    name: str, change: dict[str, Any], keys: tuple[str, ...]
) -> None:
    settings = replace(objective(name), **change)
    assert settings.other_objective == keys
    assert all(key in settings.label for key in keys)
    assert ("objective" in settings.label) == bool(keys)


def test_the_largest_weight_has_the_weights_power() -> None:
    bounds = {power: objective("hp_loss", mixture=0.1) for power in (0.0, 0.5, 1.0)}
    for power, settings in bounds.items():
        settings.weight_power = power
    assert [settings.weight_bound for settings in bounds.values()] == pytest.approx([0.0, 10**0.5, 10.0])


def test_a_negative_weight_of_the_discriminators_loss_is_named() -> None:
    assert ReplacedTokensSettings().problems() == []
    (problem,) = ReplacedTokensSettings(discriminator_weight=-1.0).problems()
    assert "task.discriminator_weight" in problem
