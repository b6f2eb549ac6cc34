"""The generator's loss at masked positions."""

from __future__ import annotations

import torch
from torch import Tensor


def focal_loss(log_probability: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of the original token, per position; gamma = 0 is cross-entropy.

    ``log_probability`` (M,): log p(x_t). Returns (M,). Standard focal form (Lin et al. 2017, eq. 4); its use for the
    generator is Hao et al. 2021, the exponent is our choice. (1 - p) is computed as -expm1(log p), which keeps its
    precision where p is near 1.
    """
    if gamma == 0:
        return -log_probability
    return -(_miss(log_probability) ** gamma) * log_probability


def focal_slope(log_probability: Tensor, gamma: float) -> Tensor:
    """Derivative (M,) of :func:`focal_loss` by log p."""
    if gamma == 0:
        return -torch.ones_like(log_probability)
    miss = _miss(log_probability)
    return -(miss**gamma) + gamma * miss ** (gamma - 1) * log_probability.exp() * log_probability


def _miss(log_probability: Tensor) -> Tensor:
    # At p = 1 the power has an infinite slope for gamma < 1, and the loss is flat there all the same.
    return (-torch.expm1(log_probability)).clamp(min=torch.finfo(log_probability.dtype).tiny)
