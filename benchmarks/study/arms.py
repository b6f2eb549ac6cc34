"""What is studied: the arms of a folder of recipes, which one others are compared with, and what they start from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from electra_scale.recipe.parse import parse_recipe, recipe_parser, recipe_to_dict
from electra_scale.recipe.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
DOWNSTREAM = Path(__file__).with_name("downstream.yaml")

_NOT_OF_A_WARMUP = ("run_dir", "seed", "corruption", "task", "schedule", "checkpoint", "logging")
"""Sections in which arms may differ that start from one warm-up. The warm-up has those of the base."""


@dataclass(frozen=True)
class Warmup:
    """A warm-up of the generator that arms start from. ``arm``: whose files its recipe has; None for the base alone."""

    arm: str | None = None

    @property
    def suffix(self) -> str:
        """Of the names of its folders."""
        return "" if self.arm is None else f"-{self.arm}"


@dataclass(frozen=True)
class Study:
    """What is studied. ``arms`` are names of files beside ``base.yaml`` in the folder ``recipes``.

    ``data`` has a folder of labelled rows for each task of ``suite``; without it nothing is asked of frozen or of tuned
    encoders.
    """

    out: Path
    recipes: Path
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int | None = None
    samples: int = 2048
    data: Path | None = None
    tuned: tuple[str, ...] = ()
    """Arms that are fine-tuned too."""
    suite: Path = DOWNSTREAM
    """The tasks, seeds and epochs of fine-tuning."""
    pairs: int = 4000
    """Held-out sentences of each kind; with so many a share of 0.9 has an error of 0.005."""
    probe_samples: int = 64
    probe_draws: int = 32

    @property
    def store(self) -> Path:
        return self.out / "store"

    def warmup(self, seed: int, warmup: Warmup) -> Path:
        """Run folder of a seed's warm-up."""
        return self.out / f"seed-{seed}" / f"warmup{warmup.suffix}"

    def start(self, seed: int, warmup: Warmup) -> Path:
        """Exported weights of a seed's warm-up, which arms start from."""
        return self.out / f"seed-{seed}" / f"start{warmup.suffix}"

    def run(self, arm: str, seed: int) -> Path:
        """Run folder of an arm and seed."""
        return self.out / f"seed-{seed}" / arm

    def configs(self, arm: str | None = None) -> list[str]:
        """Options that name the recipe's files."""
        files = [self.recipes / "base.yaml"] + ([self.recipes / f"{arm}.yaml"] if arm else [])
        return [option for file in files for option in ("--config", str(file))]

    def recipe(self, arm: str | None = None) -> Recipe:
        """The recipe of an arm, or the base; raises UserError where it is not possible."""
        steps = [] if self.steps is None else ["--schedule.steps", str(self.steps)]
        return parse_recipe(recipe_parser("study"), self.configs(arm) + steps)[0]

    @cached_property
    def baseline(self) -> str:
        """The arm that the others are compared with: the one that is the base, unchanged.

        Raises UserError if there is none.
        """
        same = [arm for arm, differing in self._differing.items() if not differing]
        if not same:
            raise UserError(
                f"{self.recipes} has no arm that is base.yaml unchanged, which the others would be compared with; add "
                "one whose file repeats a setting of the base"
            )
        return same[0]

    @cached_property
    def starts(self) -> dict[str, Warmup | None]:
        """The warm-up that each arm of the folder starts from; None for one without, which is a whole run of its own.

        Arms whose recipes differ in nothing that a warm-up reads share one. It has the recipe of the base, or of the
        one among them that differs least from it, so that it is as plain as they allow.
        """
        plain = _warmup_settings(self._recipes[None])
        found: dict[str, Warmup | None] = {}
        for arm in arms_in(self.recipes):
            recipe = self._recipes[arm]
            settings = _warmup_settings(recipe)
            alike = [other for other in self._differing if _warmup_settings(self._recipes[other]) == settings]
            if recipe.generator_warmup.steps == 0:
                found[arm] = None
            elif settings == plain:
                found[arm] = Warmup()
            else:
                found[arm] = Warmup(min(alike, key=lambda other: len(self._differing[other])))
        return found

    @property
    def warmups(self) -> tuple[Warmup, ...]:
        """All warm-ups of the folder, whichever arms are run: every discriminator is tested against their generators.

        That of the base comes first. Raises UserError if there is none.
        """
        found = {warmup for warmup in self.starts.values() if warmup is not None}
        if not found:
            raise UserError(
                f"no arm of {self.recipes} has a warm-up of the generator, and every discriminator is tested against "
                "the generator of one; set generator_warmup.steps in base.yaml"
            )
        return tuple(sorted(found, key=lambda warmup: warmup.suffix))

    @cached_property
    def has_masked_alone(self) -> bool:
        """Whether an arm of the folder has no discriminator, so that all are measured by what they predict, too."""
        return any(not self._recipes[arm].task.detects for arm in arms_in(self.recipes))

    @cached_property
    def _recipes(self) -> dict[str | None, Recipe]:
        return {arm: self.recipe(arm) for arm in (None, *arms_in(self.recipes))}

    @cached_property
    def _differing(self) -> dict[str, list[str]]:
        """Settings of each arm of the folder that are not the base's."""
        base = flat(recipe_to_dict(self._recipes[None]))
        changed = {arm: flat(recipe_to_dict(self._recipes[arm])) for arm in arms_in(self.recipes)}
        return {
            arm: [key for key in {**base, **settings} if key not in base or base[key] != settings.get(key)]
            for arm, settings in changed.items()
        }


def arms_in(recipes: Path) -> tuple[str, ...]:
    """Names of the arms of a folder, in alphabetical order."""
    return tuple(sorted(file.stem for file in recipes.glob("*.yaml") if file.stem != "base"))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _warmup_settings(recipe: Recipe) -> dict[str, Any]:
    """What a warm-up of the generator depends on, as far as arms may share one."""
    return {key: value for key, value in recipe_to_dict(recipe).items() if key not in _NOT_OF_A_WARMUP}
