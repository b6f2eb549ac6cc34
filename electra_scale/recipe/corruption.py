"""Settings of the corruption: what the discriminator is shown instead of the text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

SamplerName = Literal["electra", "temperature", "hp_loss", "hp_dist", "two_scalars"]

LEARNING = ("hp_loss", "hp_dist", "two_scalars")
"""Samplers that learn from the discriminator's loss, and whose draws carry weights unless the recipe says otherwise."""


class CorruptionSettings:
    """What the rest of the program asks of any corruption's settings; a kind overrides what differs for it."""

    uses_generator: ClassVar[bool] = True
    """Whether there is a generator network; without one there is neither a warm-up nor a variance probe."""

    @property
    def label(self) -> str:
        """A word or two for the line that a run starts with."""
        return type(self).__name__

    @property
    def learns(self) -> bool:
        """Whether it learns from the discriminator's loss."""
        return False

    @property
    def looks_ahead(self) -> bool:
        """Whether a step's replacements are drawn before the update of the step before."""
        return False

    @property
    def sampled_from(self) -> int:
        """The joint step from which replacements come from what has been learned."""
        return 0

    @property
    def weight_bound(self) -> float:
        """The largest weight of a drawn token; 0 where draws carry no weights."""
        return 0.0

    @property
    def other_objective(self) -> tuple[str, ...]:
        """The settings, as ``key value``, for which the discriminator's expected loss is not that of draws from p."""
        return ()

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        return []


@dataclass
class SamplingHeadSettings:
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
class GeneratorSettings(CorruptionSettings):
    """A generator learns masked prediction, and replacements are drawn from it by a sampler (Clark et al. 2020)."""

    kind: Literal["generator"] = "generator"
    """Which corruption this is."""

    sampler: SamplerName = "hp_loss"
    """Which distribution replacements are drawn from."""

    temperature: float = 1.5
    """Softmax temperature of the ``temperature`` sampler; other samplers do not read it."""

    temperature_end: float | None = None
    """Temperature at the end of the joint phase, to which it goes linearly from ``temperature``. Unset: it stays."""

    weight_power: float | None = None
    """Weight each drawn token's loss by w to this power, w = p/q: 1 keeps the expectation of draws from p, 0 leaves the
    weights out (hard negatives); below 1 it is another objective. Unset: 1 for the samplers that learn, else 0."""

    allow_original: bool = True
    """Whether the original token may be drawn; if not, p and q are renormalised without it, which is another objective
    (docs/method.md, section 6)."""

    mixture: float = 0.1
    """Samplers that learn: draw from (1 - mixture) q + mixture p, so that no weight exceeds 1 / mixture."""

    weight_clip: float | None = None
    """Largest w, before its power; larger ones are cut to it, which makes the estimate biased. Unset: none is cut."""

    start_after: int = 0
    """Joint steps in which replacements are drawn from the generator itself, while the head already learns."""

    look_ahead: bool = False
    """Draw the replacements of a step before the update of the step before it arrives, so that the two can overlap.
    The weights are exact for the distribution that was really drawn from."""

    focal_gamma: float = 0.0
    """Focal exponent of the generator's loss; 0 is cross-entropy."""

    sampler_weight: float = 1.0
    """Weight of the sampling head's loss in the total."""

    head: SamplingHeadSettings = field(default_factory=SamplingHeadSettings)
    """The sampling head."""

    @property
    def power(self) -> float:
        """The power b of the weights w^b that the discriminator's loss at masked positions carries."""
        if self.weight_power is None:
            return 1.0 if self.learns else 0.0
        return self.weight_power

    @property
    def learns(self) -> bool:
        return self.sampler in LEARNING

    @property
    def label(self) -> str:
        changed = ", ".join(self.other_objective)
        return f"sampler {self.sampler}" + (f" (not the objective of draws from p: {changed})" if changed else "")

    @property
    def looks_ahead(self) -> bool:
        return self.look_ahead

    @property
    def sampled_from(self) -> int:
        return self.start_after

    @property
    def weight_bound(self) -> float:
        if not self.power:
            return 0.0
        return self.mixture**-self.power if self.learns and self.mixture else math.inf

    @property
    def other_objective(self) -> tuple[str, ...]:
        # Plain ELECTRA's q is p, so that every w is 1 whatever its power.
        exact = self.sampler == "electra" or self.power == 1
        found = [] if exact else [f"corruption.weight_power {self.power:g}"]
        return (*found, *([] if self.allow_original else ["corruption.allow_original false"]))

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        found = []
        if self.temperature <= 0:
            found.append(f"corruption.temperature is {self.temperature}; it must be above 0")
        if self.temperature_end is not None:
            if not self.temperature_end > 0:
                found.append(f"corruption.temperature_end is {self.temperature_end}; it must be above 0, or unset")
            if self.sampler != "temperature":
                found.append(
                    f"corruption.temperature_end is {self.temperature_end}, but corruption.sampler {self.sampler} has "
                    "no temperature; leave it unset"
                )
        if not 0 <= self.mixture <= 1:
            found.append(f"corruption.mixture is {self.mixture}; it must lie between 0 and 1")
        if self.weight_power is not None and not 0 <= self.weight_power <= 1:
            found.append(f"corruption.weight_power is {self.weight_power}; it must lie between 0 and 1, or be unset")
        if self.weight_clip is not None and not self.weight_clip > 0:
            found.append(f"corruption.weight_clip is {self.weight_clip}; it must be above 0, or unset")
        if self.start_after < 0:
            found.append(f"corruption.start_after is {self.start_after}; it must be 0 or more")
        if self.head.clip < 0:
            found.append(f"corruption.head.clip is {self.head.clip}; it must be 0 or more")
        if self.focal_gamma < 0:
            found.append(f"corruption.focal_gamma is {self.focal_gamma}; it must be 0 or more")
        if self.sampler_weight < 0:
            found.append(f"corruption.sampler_weight is {self.sampler_weight}; it must be 0 or more")
        if self.head.width < 1:
            found.append(f"corruption.head.width is {self.head.width}; it must be at least 1")
        if self.head.floor <= 0:
            found.append(f"corruption.head.floor is {self.head.floor}; it must be above 0, or weights are unbounded")
        if self.head.learning_rate_scale <= 0:
            found.append(f"corruption.head.learning_rate_scale is {self.head.learning_rate_scale}; it must be above 0")
        return found
