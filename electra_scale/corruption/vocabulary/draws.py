"""Exact categorical draws from one uniform number per position."""

from __future__ import annotations

import torch
from torch import Tensor

_NEAR_ZERO, _NEAR_ONE = 2.0**-54, 1 - 2.0**-53


def choose(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one index per row by inverting the distribution function.

    ``weights`` (M, N): non-negative, each row with a positive sum, not necessarily normalised.
    ``uniform`` (M,): numbers in [0, 1), float64. Returns (M,) int64, and where inside its cell each number lay (M,), in
    [0, 1) again and independent of the index: the uniform number for a second choice within the first.

    Sums run in float64: in float32 the rounding of a sum over a vocabulary would be larger than the probability of a
    rare token. An index of weight zero is never returned.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1]
    # A number of 53 bits that is 0 stands for all below 2^-53; as exactly 0 it would give tokens of weight 1e-300.
    target = uniform.clamp(min=_NEAR_ZERO) * total
    # The product may round up to the sum, behind which there is no index.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    # Only weights that are not numbers reach behind the last one.
    index = index.clamp(max=weights.shape[1] - 1)
    chosen = weights.gather(1, index[:, None])[:, 0].double()
    before = cumulative.gather(1, index[:, None])[:, 0] - chosen
    inside = ((target - before) / chosen).clamp(0.0, _NEAR_ONE)
    return index, inside
