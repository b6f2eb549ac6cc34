"""How long the phases of a run take."""

from __future__ import annotations

from dataclasses import dataclass

from data_pipeline.settings import too_small


@dataclass
class ScheduleConfig:
    """The joint phase, or all of task.kind mlm: linear warm-up times linear decay to zero."""

    steps: int = 1000
    """Optimizer steps of the joint phase; with 0 the run ends with the generator's warm-up, a masked language model."""

    warmup_steps: int = 100
    """Steps over which the rate rises."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        return too_small("schedule", self, steps=0, warmup_steps=0)


@dataclass
class GeneratorWarmupConfig:
    """A phase in which the generator learns alone, before the joint phase; for small budgets, off with 0 steps."""

    steps: int = 0
    """Optimizer steps; they count before the joint phase's."""

    warmup_steps: int = 100
    """Steps over which the rate rises; it then falls to a tenth."""

    learning_rate: float = 1e-3
    """Peak rate."""

    mask_share: float = 0.4
    """Share of tokens that the generator predicts; more than in the joint phase gives more signal a step."""

    discriminator_from_generator: bool = False
    """At the end of the phase the discriminator's encoder gets the generator's weights; their sizes must be equal."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = too_small("generator_warmup", self, steps=0, warmup_steps=0)
        if not 0 < self.mask_share < 1:
            found.append(f"generator_warmup.mask_share is {self.mask_share}; it must lie between 0 and 1")
        if not self.learning_rate > 0:
            found.append(f"generator_warmup.learning_rate is {self.learning_rate}; it must be above 0")
        return found
