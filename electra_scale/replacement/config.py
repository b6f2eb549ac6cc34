"""Settings of the generator's loss and of the replacement sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SamplerName = Literal["electra", "temperature", "hp_loss", "hp_dist"]


@dataclass
class SamplingHeadConfig:
    """The head that learns hardness; used by ``hp_loss`` and ``hp_dist``."""

    width: int = 64
    """Inner width of the head. Equal to the embedding size: word embeddings are used as they are; else projected."""

    own_token: bool = True
    """Give the original token, known in training, a score of its own (our extension; weights stay exact)."""

    reaches_encoder: bool = True
    """Let the head's loss train the generator's encoder too."""

    form: Literal["rms", "mean"] = "rms"
    """hp_loss: ``rms`` fits the squared loss and samples by its root; ``mean`` fits the loss itself."""

    floor: float = 1e-3
    """hp_loss: smallest predicted hardness."""

    learning_rate_scale: float = 1.0
    """The head's learning rate as a multiple of the schedule's."""


@dataclass
class ObjectiveConfig:
    """What generator, discriminator and sampler minimise."""

    sampler: SamplerName = "hp_loss"
    """Which distribution replacements are drawn from."""

    temperature: float = 1.5
    """Softmax temperature of the ``temperature`` sampler; other samplers do not read it."""

    importance_weights: bool | None = None
    """Weight each drawn token's loss by p/q. Unset: on for hp_loss and hp_dist, off for temperature."""

    mixture: float = 0.1
    """hp_loss and hp_dist: draw from (1 - mixture) q + mixture p, so that no weight exceeds 1 / mixture."""

    focal_gamma: float = 0.0
    """Focal exponent of the generator's loss; 0 is cross-entropy."""

    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss in the total."""

    sampler_weight: float = 1.0
    """Weight of the sampling head's loss in the total."""

    head: SamplingHeadConfig = field(default_factory=SamplingHeadConfig)
    """The sampling head."""

    @property
    def weighted(self) -> bool:
        """Whether the discriminator's loss at masked positions carries importance weights."""
        if self.importance_weights is None:
            return self.sampler in ("hp_loss", "hp_dist")
        return self.importance_weights

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = []
        if self.temperature <= 0:
            found.append(f"objective.temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.mixture <= 1:
            found.append(f"objective.mixture is {self.mixture}; it must lie between 0 and 1")
        if self.focal_gamma < 0:
            found.append(f"objective.focal_gamma is {self.focal_gamma}; it must be 0 or more")
        if self.discriminator_weight < 0 or self.sampler_weight < 0:
            found.append("objective.discriminator_weight and objective.sampler_weight must be 0 or more")
        if self.head.width < 1:
            found.append(f"objective.head.width is {self.head.width}; it must be at least 1")
        if self.head.floor <= 0:
            found.append(f"objective.head.floor is {self.head.floor}; it must be above 0, or weights are unbounded")
        if self.head.learning_rate_scale <= 0:
            found.append(f"objective.head.learning_rate_scale is {self.head.learning_rate_scale}; it must be above 0")
        return found
