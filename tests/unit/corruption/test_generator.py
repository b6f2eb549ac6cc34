"""What the recipe makes of exact weights: powers of them, against sums over the whole vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from electra_scale.corruption.corruption import Clock
from electra_scale.corruption.generator import GeneratorCorruption
from electra_scale.corruption.sampler import Draw
from electra_scale.data.rows import SpecialTokens
from electra_scale.recipe.corruption import GeneratorSettings
from tests.unit.corruption.conftest import MODEL, Array, Case, objective

SPECIAL = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
SAMPLERS: list[dict[str, Any]] = [
    {"name": "temperature"},
    {"name": "hp_loss", "mixture": 0.0},
    {"name": "hp_loss", "mixture": 0.1},
    {"name": "hp_dist", "mixture": 0.1},
    {"name": "two_scalars", "mixture": 0.1},
]
every_sampler = pytest.mark.parametrize(
    "settings", SAMPLERS, ids=lambda settings: " ".join(map(str, settings.values()))
)


def weights(drawn: Draw, **settings: Any) -> Array:
    corruptor = GeneratorCorruption(replace(objective("hp_loss"), **settings), MODEL, SPECIAL, seed=0)
    found: Array = corruptor.weight(drawn).double().numpy()
    return found


@every_sampler
@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0])
def test_a_power_of_the_weights_moves_the_mean_by_what_the_formula_says(settings: dict[str, Any], power: float) -> None:
    """E_q[w^b l] = sum_v p^b q^(1-b) l, over the V tokens of each of four positions (method.md, section 6)."""
    cases = [Case(**settings, exact=False, seed=seed) for seed in range(4)]
    found, predicted, plain = [], [], []
    for case in cases:
        weight = weights(case.draw_each_token()[1], weight_power=power)
        np.testing.assert_allclose(weight, (case.p / case.q) ** power, rtol=1e-5)
        found.append(case.q @ (weight * case.losses))
        predicted.append((case.p**power * case.q ** (1 - power)) @ case.losses)
        plain.append(case.p @ case.losses)
    assert np.mean(found) == pytest.approx(np.mean(predicted), rel=1e-6)
    bias = np.mean(found) - np.mean(plain)
    assert (abs(bias) < 1e-6) == (power == 1)


def test_a_power_of_one_is_the_weight_itself_and_of_zero_none() -> None:
    drawn = Case("hp_loss", mixture=0.1).draw_each_token()[1]
    corruptor = GeneratorCorruption(objective("hp_loss"), MODEL, SPECIAL, seed=0)
    assert torch.equal(corruptor.weight(drawn), drawn.weight)
    corruptor.settings.weight_power = 0.0
    assert torch.equal(corruptor.weight(drawn), torch.ones_like(drawn.weight))


@pytest.mark.parametrize(("step", "temperature"), [(0, 2.0), (25, 1.75), (100, 1.0)])
def test_the_temperature_goes_linearly_to_its_end_and_weights_are_those_of_the_step(
    step: int, temperature: float
) -> None:
    case = Case("temperature", temperature=temperature)
    settings = GeneratorSettings(sampler="temperature", temperature=2.0, temperature_end=1.0)
    corruptor = GeneratorCorruption(settings, MODEL, SPECIAL, seed=0)
    case.sampler = corruptor.sampler_at(Clock(500 + step, 0, "joint", step, 100))
    np.testing.assert_allclose(case.draw_each_token()[1].weight.numpy(), case.p / case.q, rtol=1e-5)


def test_a_temperature_without_an_end_stays() -> None:
    settings = GeneratorSettings(sampler="temperature", temperature=1.5, allow_original=False)
    corruptor = GeneratorCorruption(settings, MODEL, SPECIAL, seed=0)
    found: Any = corruptor.sampler_at(Clock(30, 0, "joint", 30, 100))
    assert (found.temperature, found.allow_original) == (1.5, False)


def test_a_clip_cuts_w_before_its_power() -> None:
    drawn = Case("hp_loss", mixture=0.1).draw_each_token()[1]
    assert weights(drawn, weight_power=0.5, weight_clip=1.21).max() == pytest.approx(1.1)
