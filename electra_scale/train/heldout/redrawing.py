"""One row many times over: the same masks with other uniform numbers, keyed by draw, sample and position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from electra_scale.corruption.sampler import Masked
from electra_scale.data.batch import Batch
from electra_scale.data.noise import uniforms_at


def uniforms_of(seed: int, sample: int, draws: int, batch: Batch) -> Tensor:
    """Numbers (K, M) of ``draws`` draws for the masked positions of a batch of one row, on the host."""
    width, masked = batch.ids.shape[1], batch.masked.numpy()
    flat = (np.arange(draws)[:, None] * width + masked).reshape(-1)
    numbers = uniforms_at(seed, np.arange(draws), np.full(draws, sample, dtype=np.int64), width, "probe", flat)
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
