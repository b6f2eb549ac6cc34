"""Exact categorical draws from one uniform number per position."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 256


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw one index per row by inverting the distribution function.

    ``weights`` (M, V): non-negative, each row with a positive sum, not necessarily normalised.
    ``uniform`` (M,): numbers in [0, 1), float64. Returns (M,) int64.

    The function is inverted in two steps, over sums of chunks and then inside the chosen chunk, so that only
    M x (V / CHUNK + CHUNK) cumulative sums are formed. Sums run in float64: in float32 the rounding of a sum over V
    would be larger than the probability of a rare token. An index of weight zero is never returned.
    """
    rows, vocabulary = weights.shape
    chunks = -(-vocabulary // CHUNK)
    padding = chunks * CHUNK - vocabulary
    if padding:
        weights = torch.nn.functional.pad(weights, (0, padding))
    blocks = weights.view(rows, chunks, CHUNK)
    cumulative = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniform.to(torch.float64) * cumulative[:, -1]
    chunk = _first_above(cumulative, target)
    before = torch.where(chunk > 0, cumulative.gather(1, (chunk - 1).clamp(min=0)[:, None])[:, 0], 0.0)
    inner = blocks[torch.arange(rows, device=weights.device), chunk].to(torch.float64).cumsum(-1)
    return chunk * CHUNK + _first_above(inner, target - before)


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """First index whose cumulative sum exceeds the target; rounding at the end falls back to the last positive one."""
    index = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    last_positive = cumulative.argmax(-1)
    return torch.minimum(index, last_positive)
