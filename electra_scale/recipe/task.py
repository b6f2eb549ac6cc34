"""Settings of the task: what the encoder that is kept learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass
class ReplacedTokensSettings:
    """The discriminator detects which tokens were replaced (Clark et al. 2020)."""

    detects: ClassVar[bool] = True
    """Whether there is a discriminator; without one the run has one network, which predicts masked tokens."""

    kind: Literal["replaced_tokens"] = "replaced_tokens"
    """Which task this is."""

    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss in the total."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        if self.discriminator_weight >= 0:
            return []
        return [f"task.discriminator_weight is {self.discriminator_weight}; it must be 0 or more"]


@dataclass
class MaskedTokensSettings:
    """Masked language modelling alone (Devlin et al. 2019): one encoder, of the discriminator's size, and no
    replacements."""

    detects: ClassVar[bool] = False

    kind: Literal["mlm"] = "mlm"
    """Which task this is."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        return []
