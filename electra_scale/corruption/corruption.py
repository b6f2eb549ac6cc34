"""What a corruption is to the rest of the program: what the discriminator is shown, and what that teaches in return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from electra_scale.corruption.sampler import Distributions
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.kinds import method_of
from electra_scale.recipe.model import ModelConfig
from electra_scale.recipe.optimizer import PARTS, PartSettings
from electra_scale.recipe.phases import Phase, PhasePlan

Sums = Mapping[str, NDArray[np.floating[Any]]]
"""What terms and statistics of the global batch come to, by name: sums or maxima (1,), vectors of them, or lists."""


@dataclass(frozen=True)
class Clock:
    """When a batch is worked on: what schedules are functions of.

    ``step`` of the run, ``epoch`` of its first sample, and ``phase_step``, the step within the phase; all from 0.
    ``phase_steps``: of the whole phase; 0 where no schedule is asked for.
    """

    step: int
    epoch: int
    phase: Phase
    phase_step: int
    phase_steps: int = 0

    @classmethod
    def of(cls, step: int, epoch: int, plan: PhasePlan) -> Clock:
        """The clock of a step of a phase; before the phase it is that of its first step."""
        return cls(step, epoch, plan.name, max(0, step - plan.first), plan.last - plan.first)

    @property
    def progress(self) -> float:
        """The share of the phase that lies before this step."""
        return min(self.phase_step / self.phase_steps, 1.0) if self.phase_steps else 0.0


@dataclass
class LossTerm:
    """A part of the loss: ``weight`` times ``sum`` over the global batch, divided by the global count ``per``.

    ``sum`` () is this micro-batch's, with its gradient; it is logged as ``loss/NAME``.
    """

    name: str
    sum: Tensor
    per: str
    weight: float = 1.0

    def statistic(self) -> Statistic:
        """What is logged of it."""
        return Statistic(f"loss/{self.name}", self.sum.detach(), per=self.per, weight=self.weight)


@dataclass
class Statistic:
    """A value that is combined over micro-batches and ranks, by sum or maximum, or a vector kept whole as a list.

    With ``per``, the quotient by that global count is logged under the statistic's name; without, it is for the
    ``metrics`` of whoever made it. ``weight`` is that of a loss in ``loss/total``; None for what is not a loss.
    """

    name: str
    value: Tensor
    reduce: Literal["sum", "max", "list"] = "sum"
    per: str | None = None
    weight: float | None = None


@dataclass
class Corruption:
    """What the discriminator is shown.

    Attributes:
        ids: (B,S) token ids with the replacements in place.
        labels: (B,S) bool, True where a token is another one than in the text.
        token_weight: (B,S) float32 factors of the discriminator's loss, constants of the gradient; 0 at padding.
        positions: (M,) flat indices into B x S at which tokens may have been replaced.
        proposal: what the corruption keeps for :meth:`Corruptor.feedback`.
        terms: parts of the loss that it has of its own.
        statistics: values for its metrics.
    """

    ids: Tensor
    labels: Tensor
    token_weight: Tensor
    positions: Tensor
    proposal: Any = None
    terms: list[LossTerm] = field(default_factory=list)
    statistics: list[Statistic] = field(default_factory=list)


class Corruptor(ABC):
    """A way to corrupt text. Random numbers come with the batch, keyed by sample and position."""

    counts: ClassVar[tuple[str, ...]] = ("masked", "tokens")
    """Names of the global counts that its loss terms and statistics are divided by."""

    def __init__(self, settings: Any, model: ModelConfig, special: SpecialTokens, seed: int) -> None:
        self.settings = settings
        self.special = special

    def modules(self) -> dict[str, nn.Module]:
        """What it learns, by the names that checkpoints have for them."""
        return {}

    def training(self, name: str) -> PartSettings:
        """How what it learns is trained, where the recipe does not say: each of :meth:`modules` is a part."""
        return PartSettings(replicated=True)

    def count(self, name: str, batch: Batch) -> int:
        """This micro-batch's share of a global count; the batch is on the host."""
        if name == "masked":
            return len(batch.masked)
        if name == "tokens":
            return int((batch.segment >= 0).sum())
        raise KeyError(f"{type(self).__name__} does not count {name!r}")

    @abstractmethod
    def corrupt(
        self, networks: Electra, batch: Batch, layout: Layout, clock: Clock, detailed: bool = False, ahead: Any = None
    ) -> Corruption:
        """Corrupt a batch; with statistics for all metrics if ``detailed``.

        ``ahead`` is what :meth:`look_ahead` gave for this batch. In the phase ``generator_warmup`` its terms are all.
        """

    def heldout(self, networks: Electra, batch: Batch, layout: Layout, clock: Clock) -> Corruption:
        """Corrupt held-out text: by the same task whatever is learned, so that runs can be compared."""
        return self.corrupt(networks, batch, layout, clock, detailed=True)

    def look_ahead(self, networks: Electra, batch: Batch, layout: Layout, clock: Clock) -> Any:
        """Draw a batch's replacements before the step that it belongs to; see the setting ``looks_ahead``."""
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def distributions(self, corruption: Corruption, clock: Clock) -> Iterator[Distributions] | None:
        """What the replacements of a corruption are drawn from at that time, in blocks of its positions, in order.

        No gradient. Training does not ask for it: it is what a user looks at. None: the kind does not draw from a
        distribution over the vocabulary.
        """
        return None

    def feedback(self, corruption: Corruption, token_loss: Tensor) -> list[LossTerm]:
        """Loss terms that follow from the discriminator's loss (M,), without gradient, at the positions."""
        return []

    def feedback_statistics(self, corruption: Corruption, token_loss: Tensor) -> list[Statistic]:
        """Statistics that follow from the discriminator's loss (M,) at the corruption's positions."""
        return []

    def metrics(self, sums: Sums, phase: Phase) -> dict[str, float]:
        """Metrics from the global sums of its statistics."""
        return {}

    def heldout_metrics(self, sums: Sums) -> dict[str, float]:
        """Metrics of held-out text from the sums of :meth:`heldout`."""
        return {}

    def observe(self, sums: Sums) -> None:  # noqa: B027
        """Take note of the global sums of a step, after its update; most corruptions need none."""

    @classmethod
    def cost(cls, settings: Any, model: ModelConfig, trained: Collection[str]) -> CorruptionCost:
        """What it adds to a step that trains the parts of these names, from the settings alone."""
        return CorruptionCost()


class CorruptionCost:
    """What a corruption adds to a step; nothing, unless a kind overrides it."""

    parameters: int = 0
    """Of what it learns besides the networks."""

    def flops(self, masked: int) -> float:
        """Operations of a micro-batch with ``masked`` positions, forward, backward and the draw."""
        return 0.0

    def kept_bytes(self, masked: int, element: int) -> float:
        """Bytes that are kept from the forward pass until backward, ``element`` bytes a number."""
        return 0.0

    def running_bytes(self, masked: int, element: int, device_type: str) -> float:
        """Bytes besides while replacements are drawn, on a device of torch's ``device_type``."""
        return 0.0

    def masked_bytes(self, masked: int, element: int) -> float:
        """Bytes of heads and losses at the masked positions."""
        return 0.0

    def backward_bytes(self, masked: int, element: int, device_type: str) -> float:
        """Bytes besides in the backward pass, while all activations are there, on a device of ``device_type``."""
        return 0.0


def build_corruptor(settings: Any, model: ModelConfig, special: SpecialTokens, seed: int) -> Corruptor:
    """The corruption that the recipe chooses."""
    found: Corruptor = method_of("corruption", settings.kind)(settings, model, special, seed)
    return found


def cost_of(settings: Any, model: ModelConfig, trained: Collection[str] = PARTS) -> CorruptionCost:
    """What the corruption that the recipe chooses adds to a step that trains the parts of these names."""
    found: CorruptionCost = method_of("corruption", settings.kind).cost(settings, model, trained)
    return found


def statistics_of(
    values: Mapping[str, Tensor], maxima: Sequence[str] = (), lists: Sequence[str] = ()
) -> list[Statistic]:
    """Statistics from values by name: those in ``maxima`` are combined by maximum, those in ``lists`` kept whole."""
    kinds: dict[str, Literal["max", "list"]] = {**dict.fromkeys(maxima, "max"), **dict.fromkeys(lists, "list")}
    return [Statistic(name, value, kinds.get(name, "sum")) for name, value in values.items()]
