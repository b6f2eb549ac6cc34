"""How long the phases of a run take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ScheduleConfig:
    """The joint phase: linear warm-up times linear decay to zero."""

    steps: int = 1000
    """Optimizer steps of the joint phase."""

    warmup_steps: int = 100
    """Steps over which the rate rises."""


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
