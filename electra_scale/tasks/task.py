"""What a task is to the rest of the program: what the discriminator learns from corrupted text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from electra_scale.corruption.corruption import Corruption, LossTerm, Statistic, Sums
from electra_scale.data.loader import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.architectures.architecture import Hidden
from electra_scale.model.electra import Electra
from electra_scale.recipe.kinds import method_of
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.optimizer import PartSettings


@dataclass
class TaskTerms:
    """Loss terms of a micro-batch; ``token_loss`` (B,S), without gradient, is what a corruption may learn from."""

    terms: list[LossTerm]
    token_loss: Tensor
    statistics: list[Statistic] = field(default_factory=list)


class Task(ABC):
    """What the discriminator's hidden states are trained for."""

    counts: ClassVar[tuple[str, ...]] = ("tokens",)
    """Names of the global counts that its loss terms and statistics are divided by."""

    depths: ClassVar[tuple[int, ...]] = ()
    """Layers whose hidden states it needs besides the last."""

    def __init__(self, settings: Any, model: ModelConfig, special: SpecialTokens) -> None:
        self.settings = settings
        self.special = special

    def modules(self) -> dict[str, nn.Module]:
        """Heads of its own, by the names that checkpoints have for them."""
        return {}

    def training(self, name: str) -> PartSettings:
        """How a head of its own is trained, where the recipe does not say."""
        return PartSettings(rate=1.0)

    def count(self, name: str, batch: Batch) -> int | None:
        """This micro-batch's share of a global count of its own; None for one that the corruption counts."""
        return None

    @abstractmethod
    def terms(
        self, networks: Electra, hidden: Hidden, corruption: Corruption, batch: Batch, detailed: bool = False
    ) -> TaskTerms:
        """The task's losses; with statistics for all metrics if ``detailed``."""

    def heldout(self, networks: Electra, hidden: Hidden, corruption: Corruption, batch: Batch) -> list[Statistic]:
        """Statistics of held-out text, without gradient."""
        return self.terms(networks, hidden, corruption, batch, detailed=True).statistics

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Metrics from the global sums of its statistics."""
        return {}

    def heldout_metrics(self, sums: Sums) -> dict[str, float]:
        """Metrics of held-out text from the sums of :meth:`heldout`."""
        return {}


def build_task(settings: Any, model: ModelConfig, special: SpecialTokens) -> Task:
    """The task that the recipe chooses."""
    found: Task = method_of("task", settings.kind)(settings, model, special)
    return found
