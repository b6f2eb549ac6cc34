"""Dropout, whose random numbers are cheap on a processor too.

torch's own on a processor asks its generator for 64 bits a number, one number at a time, and that takes longer than the
product beside it. Here a number has 16 bits: its share is the nearest multiple of 1/65,536, and what is kept is scaled
by that, so the expectation is exact. A device other than a processor, and compiled code, have dropout of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NUMBERS = 1 << 16


class Dropout(nn.Module):
    """In training, values are 0 with probability ``share`` and scaled to keep their expectation otherwise."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        return drop(values, self.share) if self.training else values


def drop(values: Tensor, share: float) -> Tensor:
    """``values`` of any shape, of which each is dropped with probability ``share`` in [0, 1)."""
    if share == 0:
        return values
    if not has_own(values):
        return F.dropout(values, share)
    dropped: Tensor = _Drop.apply(values, share)
    return dropped


def has_own(values: Tensor) -> bool:
    """Whether dropout of these values is this module's."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


class _Drop(torch.autograd.Function):
    """Keeps a byte a value for the backward pass, as torch's own does."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float) -> Tensor:
        dropped = min(max(round(share * _NUMBERS), 0), _NUMBERS - 1)
        numbers = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        kept = (numbers.view(torch.int16)[: values.numel()] >= dropped - _NUMBERS // 2).view(values.shape)
        ctx.save_for_backward(kept)
        ctx.scale = _NUMBERS / (_NUMBERS - dropped)
        return _kept(values, kept, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _kept(gradient, kept, ctx.scale), None


def _kept(values: Tensor, kept: Tensor, scale: float) -> Tensor:
    return torch.where(kept, values, 0.0).mul_(scale)
