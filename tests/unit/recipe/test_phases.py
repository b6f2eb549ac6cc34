"""The phases and the learning rate, by hand."""

from __future__ import annotations

import pytest

from electra_scale.recipe.phases import generator_warmup_rate, joint_rate, learning_rate, phases
from electra_scale.recipe.recipe import Recipe


def recipe() -> Recipe:
    made = Recipe()
    made.schedule.steps, made.schedule.warmup_steps = 100, 10
    made.generator_warmup.steps, made.generator_warmup.warmup_steps = 50, 5
    made.generator_warmup.learning_rate, made.generator_warmup.mask_share = 2e-3, 0.4
    made.optimizer.learning_rate, made.data.mask_share = 1e-3, 0.15
    return made


def test_the_joint_rate_is_warm_up_times_decay_as_in_electra() -> None:
    rates = [joint_rate(step, 1.0, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[1] == pytest.approx(0.2 * 0.99)
    assert rates[9] == pytest.approx(0.91)
    assert rates[10] == pytest.approx(0.9)
    assert rates[50] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.01)
    assert max(rates) == rates[9]
    assert joint_rate(100, 1.0, 100, 10) == 0


def test_the_warm_up_phase_ends_at_a_tenth_of_its_peak() -> None:
    rates = [generator_warmup_rate(step, 1.0, 50, 5) for step in range(50)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(1 - 0.9 * 4 / 50)
    assert rates[25] == pytest.approx(0.55)
    assert rates[49] == pytest.approx(0.118)
    assert generator_warmup_rate(50, 1.0, 50, 5) == pytest.approx(0.1)


@pytest.mark.parametrize("rate", [joint_rate, generator_warmup_rate])
def test_without_rising_steps_the_first_step_has_the_peak(rate: object) -> None:
    assert rate(0, 3e-4, 100, 0) == pytest.approx(3e-4)
    assert rate(0, 3e-4, 1, 0) == pytest.approx(3e-4)


def test_a_run_has_two_phases_that_follow_each_other() -> None:
    warmup, joint = phases(recipe())
    assert (warmup.name, warmup.first, warmup.last, warmup.mask_share, warmup.peak_rate) == (
        *("generator_warmup", 0, 50, 0.4),
        2e-3,
    )
    assert (joint.name, joint.first, joint.last, joint.mask_share, joint.peak_rate) == ("joint", 50, 150, 0.15, 1e-3)


def test_a_warm_up_of_no_steps_is_left_out() -> None:
    made = recipe()
    made.generator_warmup.steps = 0
    (joint,) = phases(made)
    assert (joint.name, joint.first, joint.last) == ("joint", 0, 100)


def test_the_rate_of_a_global_step_is_that_of_its_place_in_its_phase() -> None:
    made = recipe()
    warmup, joint = phases(made)
    assert learning_rate(warmup, 25, made) == pytest.approx(2e-3 * 0.55)
    assert learning_rate(joint, 50, made) == pytest.approx(1e-3 * 0.1)
    assert learning_rate(joint, 100, made) == pytest.approx(1e-3 * 0.5)
    assert learning_rate(joint, 149, made) == pytest.approx(1e-3 * 0.01)
