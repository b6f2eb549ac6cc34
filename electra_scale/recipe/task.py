"""Settings of the task: what the discriminator learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class ReplacedTokensSettings:
    """The discriminator detects which tokens were replaced (Clark et al. 2020)."""

    kind: Literal["replaced_tokens"] = "replaced_tokens"
    """Which task this is."""

    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss in the total."""

    def problems(self) -> list[str]:
        """Settings that make no sense, one sentence each."""
        if self.discriminator_weight >= 0:
            return []
        return [f"task.discriminator_weight is {self.discriminator_weight}; it must be 0 or more"]
