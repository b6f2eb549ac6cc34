"""The phases of a run, and the learning rate as a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from electra_scale.recipe.optimizer import PartSettings, training_of_parts
from electra_scale.recipe.recipe import Recipe

Phase = Literal["generator_warmup", "joint", "mlm"]


def joint_rate(step: int, peak: float, steps: int, warmup: int) -> float:
    """Linear decay to zero, times linear warm-up, both acting from the start, as in ELECTRA. ``step`` counts from 0."""
    return peak * (1 - step / steps) * min(1.0, (step + 1) / max(warmup, 1))


def generator_warmup_rate(step: int, peak: float, steps: int, warmup: int) -> float:
    """Linear warm-up, then linear decay to a tenth of the peak, since the joint phase continues from there."""
    return peak * (1 - 0.9 * step / steps) * min(1.0, (step + 1) / max(warmup, 1))


@dataclass
class PhasePlan:
    """What differs between the phases. Steps are counted over the whole run: ``first`` <= step < ``last``."""

    name: Phase
    first: int
    last: int
    mask_share: float
    peak_rate: float


def phases(recipe: Recipe) -> list[PhasePlan]:
    """The phases of a run in order, the last one being the joint phase, perhaps of no steps.

    A warm-up of 0 steps is left out. Masked language modelling alone is one phase, with the joint one's settings.
    """
    warmup = recipe.generator_warmup
    name: Phase = "joint" if recipe.task.detects else "mlm"
    joint = PhasePlan(name, warmup.steps, recipe.total_steps, recipe.data.mask_share, recipe.optimizer.learning_rate)
    if warmup.steps == 0:
        return [joint]
    return [PhasePlan("generator_warmup", 0, warmup.steps, warmup.mask_share, warmup.learning_rate), joint]


def trained_parts(recipe: Recipe, phase: Phase) -> dict[str, PartSettings]:
    """The parts of the model that a phase of the recipe trains, by name, and how; what it leaves is not among them.

    What the corruption learns is ``sampler``. Of its rate and clip only what the recipe says is known here.
    """
    learned = {"sampler": PartSettings(replicated=True)} if recipe.corruption.learns else {}
    found = training_of_parts(recipe.optimizer, phase == "joint", recipe.corruption.uses_generator, learned)
    return {name: part for name, part in found.items() if not part.frozen}


def learning_rate(plan: PhasePlan, step: int, recipe: Recipe) -> float:
    """Rate of a global step in its phase."""
    inside, steps = step - plan.first, plan.last - plan.first
    if plan.name != "generator_warmup":
        return joint_rate(inside, plan.peak_rate, steps, recipe.schedule.warmup_steps)
    return generator_warmup_rate(inside, plan.peak_rate, steps, recipe.generator_warmup.warmup_steps)
