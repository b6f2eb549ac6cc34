"""What can be looked into: networks that draw replacements for a row, and say which of its tokens were replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from electra_scale.corruption.corruption import Corruption
from electra_scale.corruption.sampler import Distributions
from electra_scale.data.batch import Batch
from electra_scale.inside.looked import About
from electra_scale.inside.reading import Reader
from electra_scale.model.attention.layout import Layout


class Opened(ABC):
    """Networks on the CPU in float32, without dropout; nothing that is asked of them changes them."""

    about: About
    reader: Reader

    @abstractmethod
    def corrupt(self, batch: Batch, layout: Layout) -> Corruption:
        """The batch with its draws in place. Only asked of what generates."""

    @abstractmethod
    def distributions(self, corruption: Corruption) -> Iterator[Distributions] | None:
        """What a corruption was drawn from, in blocks of its positions; None where nothing says."""

    @abstractmethod
    def scores(self, ids: Tensor, layout: Layout) -> Tensor:
        """The probability (B,S) of "replaced" for each token of ``ids`` (B,S). Only asked of what detects."""
