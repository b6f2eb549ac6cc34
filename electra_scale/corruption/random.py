"""Uniform replacement without a generator (Di Liello et al. 2022, random token substitution)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from electra_scale.corruption.corruption import Clock, Corruption, Corruptor
from electra_scale.corruption.sampler import Distributions
from electra_scale.data.batch import Batch
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.corruption import CorruptionSettings
from electra_scale.recipe.model import ModelConfig


@dataclass
class RandomSettings(CorruptionSettings):
    """Masked positions get a token drawn uniformly from the vocabulary, special tokens left out."""

    uses_generator: ClassVar[bool] = False

    kind: Literal["random"] = "random"
    """Which corruption this is."""

    @property
    def label(self) -> str:
        return "uniform replacement"


class RandomTokens(Corruptor):
    """Draws by the uniform number that each masked position has; a token drawn for itself counts as original."""

    def __init__(self, settings: RandomSettings, model: ModelConfig, special: SpecialTokens, seed: int) -> None:
        super().__init__(settings, model, special, seed)
        kept = torch.ones(model.vocab_size, dtype=torch.bool)
        kept[torch.from_numpy(special.ids())] = False
        self.ordinary = kept.nonzero()[:, 0]
        self.vocabulary = model.vocab_size

    def corrupt(
        self, networks: Electra, batch: Batch, layout: Layout, clock: Clock, detailed: bool = False, ahead: Any = None
    ) -> Corruption:
        ordinary = self.ordinary.to(batch.ids.device)
        place = (batch.uniform * len(ordinary)).long().clamp(max=len(ordinary) - 1)
        ids = batch.ids.flatten().index_copy(0, batch.masked, ordinary[place]).view_as(batch.ids)
        replaced = ids != batch.ids
        return Corruption(
            ids=ids,
            labels=replaced,
            token_weight=(batch.segment >= 0).float(),
            positions=batch.masked,
        )

    def distributions(self, corruption: Corruption, clock: Clock) -> Iterator[Distributions]:
        q = torch.zeros(self.vocabulary, dtype=torch.float64)
        q[self.ordinary] = 1 / len(self.ordinary)
        for _ in range(len(corruption.positions)):
            yield Distributions(None, q[None])
