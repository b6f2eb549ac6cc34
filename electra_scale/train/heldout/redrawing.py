"""One row many times over: the same masks with other uniform numbers, keyed by draw, sample and position."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from electra_scale.corruption.corruption import Corruption
from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.vocabulary.vocabulary_pass import propose
from electra_scale.data.batch import Batch
from electra_scale.data.noise import uniforms_at
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.tasks.replaced_tokens import ReplacedTokens


def uniforms_of(seed: int, sample: int, draws: int, batch: Batch, first: int = 0) -> Tensor:
    """Numbers (K, M) of draws ``first`` to ``first + draws`` for the masked positions of a batch of one row, on the
    host."""
    width, masked = batch.ids.shape[1], batch.masked.numpy()
    flat = (np.arange(draws)[:, None] * width + masked).reshape(-1)
    numbers = uniforms_at(seed, first + np.arange(draws), np.full(draws, sample, dtype=np.int64), width, "probe", flat)
    return torch.from_numpy(numbers.reshape(draws, len(masked)))


def copies_of(batch: Batch, uniform: Tensor) -> Batch:
    """The one row of a batch once for each row of ``uniform`` (C, M)."""
    copies, width = len(uniform), batch.ids.shape[1]
    begins = torch.arange(copies, device=batch.masked.device)[:, None] * width
    return Batch(
        batch.ids.repeat(copies, 1),
        batch.segment.repeat(copies, 1),
        (begins + batch.masked).flatten(),
        batch.shown_as_mask.repeat(copies),
        uniform.flatten(),
    )


def masked_copies(masked: Masked, copies: int, uniform: Tensor) -> Masked:
    """What the generator gives at M positions, ``copies`` times over, with ``uniform`` (C M,) for the draws."""
    return replace(
        masked,
        features=masked.features.repeat(copies, 1),
        hidden=masked.hidden.repeat(copies, 1),
        original=masked.original.repeat(copies),
        uniform=uniform,
    )


@dataclass(frozen=True)
class OneRow:
    """A row of S tokens with M masked positions on the device, what the generator gives there, and who reads it.

    ``segment`` (1, S) is on the host.
    """

    electra: Electra
    task: ReplacedTokens
    batch: Batch
    segment: Tensor
    masked: Masked

    def losses(self, sampler: Sampler, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All replacements of the row drawn anew, once for each row of ``uniform`` (C, M).

        The discriminator's loss (C, S); what it counts at masked positions, w, and at other tokens, 1, both (C, S) with
        zeros elsewhere; w (C M,).
        """
        copies = len(uniform)
        many = copies_of(self.batch, uniform)
        drawn = propose(sampler, masked_copies(self.masked, copies, many.uniform))
        ids = many.ids.flatten().index_copy(0, many.masked, drawn.tokens).view_as(many.ids)
        real = (many.segment >= 0).float()
        at_masked = torch.zeros_like(real).flatten().index_copy(0, many.masked, drawn.weight.float()).view_as(real)
        at_others = real.flatten().index_fill(0, many.masked, 0.0).view_as(real)
        # In rows, since those who ask take gradients apart by rows.
        layout = Layout.of(self.segment.repeat(copies, 1)).to(ids.device).in_rows()
        corruption = Corruption(ids, ids != many.ids, at_masked + at_others, many.masked)
        _, loss = self.task.detect(self.electra, self.electra.discriminator_hidden(ids, layout), corruption)
        return loss, at_masked, at_others, drawn.weight
