"""``task.kind: mlm``: one phase, of the encoder that is kept, with the joint phase's settings."""

from __future__ import annotations

from typing import Any

import pytest

from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.recipe.model import EncoderSize
from electra_scale.recipe.phases import joint_rate, learning_rate, phases
from electra_scale.recipe.recipe import Recipe
from electra_scale.recipe.schedule import ScheduleConfig
from electra_scale.recipe.task import MaskedTokensSettings


def recipe(**changes: Any) -> Recipe:
    made = Recipe(task=MaskedTokensSettings(), schedule=ScheduleConfig(steps=20, warmup_steps=4))
    for key, value in changes.items():
        section, _, name = key.partition("__")
        setattr(getattr(made, section), name, value)
    return made


def test_the_one_phase_has_the_steps_masks_and_rates_of_the_joint_phase() -> None:
    made = recipe(data__mask_share=0.3)
    [plan] = phases(made)
    assert (plan.name, plan.first, plan.last, plan.mask_share) == ("mlm", 0, 20, 0.3)
    peak = made.optimizer.learning_rate
    assert [learning_rate(plan, step, made) for step in range(20)] == [joint_rate(n, peak, 20, 4) for n in range(20)]


def test_what_learns_is_of_the_discriminators_size() -> None:
    made = recipe()
    model = made.networks(100)
    assert model.generator == model.discriminator == made.model.discriminator
    assert Recipe().networks(100).generator == EncoderSize(12, 64, 256, 1)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"generator_warmup__steps": 5}, "generator_warmup.steps is 5; set it to 0"),
        ({"schedule__steps": 0}, "schedule.steps is 0, so nothing is trained"),
    ],
)
def test_what_a_run_of_one_network_cannot_have_is_refused(changes: dict[str, Any], problem: str) -> None:
    [found] = recipe(**changes).problems()
    assert found.startswith("task.kind is mlm")
    assert problem in found


def test_settings_of_two_networks_do_not_stand_in_its_way() -> None:
    narrow = recipe(optimizer__generator_rate=0.0, model__position_init="neighbours", model__embedding=256)
    narrow.corruption = GeneratorSettings(sampler="hp_loss")
    assert narrow.problems() == []
