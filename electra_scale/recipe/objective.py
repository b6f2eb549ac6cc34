"""Settings of the generator's loss and of the replacement sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SamplerName = Literal["electra", "temperature", "hp_loss", "hp_dist", "two_scalars"]

LEARNING = ("hp_loss", "hp_dist", "two_scalars")
"""Samplers that learn from the discriminator's loss, and whose draws carry weights unless the recipe says otherwise."""


@dataclass
class SamplingHeadConfig:
    """What learns hardness; ``two_scalars`` reads only form, floor, target and rate."""

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

    target: Literal["loss", "gradient"] = "loss"
    """hp_loss: what is predicted for a replacement: the discriminator's loss l, or the size of its gradient on the
    logit, 1 - exp(-l)."""

    normaliser: Literal["none", "batch", "moving"] = "none"
    """hp_dist: divide the head's loss by the mean of w l over the batch, or by its moving mean, or by nothing."""

    shuffled: bool = False
    """hp_loss: give each predicted hardness to another token when sampling. A control for studies: what is left of the
    gain is due to flattening, not to knowing what is hard."""

    learning_rate_scale: float = 1.0
    """The head's learning rate as a multiple of the schedule's."""

    clip: float = 1.0
    """Largest norm of the head's gradient, which is clipped apart from the rest; 0 leaves it as it is."""


@dataclass
class ObjectiveConfig:
    """What generator, discriminator and sampler minimise."""

    sampler: SamplerName = "hp_loss"
    """Which distribution replacements are drawn from."""

    temperature: float = 1.5
    """Softmax temperature of the ``temperature`` sampler; other samplers do not read it."""

    importance_weights: bool | None = None
    """Weight each drawn token's loss by p/q. Unset: on for the samplers that learn, off for temperature."""

    mixture: float = 0.1
    """Samplers that learn: draw from (1 - mixture) q + mixture p, so that no weight exceeds 1 / mixture."""

    weight_clip: float | None = None
    """Largest importance weight; larger ones are cut to it, which makes the estimate biased. Unset: none is cut."""

    start_after: int = 0
    """Joint steps in which replacements are drawn from the generator itself, while the head already learns."""

    look_ahead: bool = False
    """Draw the replacements of a step before the update of the step before it arrives, so that the two can overlap.
    The weights are exact for the distribution that was really drawn from."""

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
            return self.sampler in LEARNING
        return self.importance_weights

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = []
        if self.temperature <= 0:
            found.append(f"objective.temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.mixture <= 1:
            found.append(f"objective.mixture is {self.mixture}; it must lie between 0 and 1")
        if self.weight_clip is not None and not self.weight_clip > 0:
            found.append(f"objective.weight_clip is {self.weight_clip}; it must be above 0, or unset")
        if self.start_after < 0:
            found.append(f"objective.start_after is {self.start_after}; it must be 0 or more")
        if self.head.clip < 0:
            found.append(f"objective.head.clip is {self.head.clip}; it must be 0 or more")
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
