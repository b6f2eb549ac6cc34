"""Dropout, whose random numbers are cheap on a processor too.

torch's own on a processor asks its generator for 64 bits a number, one number at a time, and that takes longer than the
product beside it. Here a number has 16 bits: its share is the nearest multiple of 1/65,536, and what is kept is scaled
by that, so the expectation is exact. It is native code where there is a compiler, and elsewhere has the numbers of
numpy's quickest generator, SFC64; both take their seed from torch's. A device other than a processor, and compiled
code, have dropout of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_scale.model import native_dropout

_NUMBERS = 1 << 16

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a value. Bits of what is dropped are masked out: torch's other ways to choose values on a processor
(``where``, ``masked_fill``, products with booleans) take 4 to 50 times as long."""


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
    found: Tensor = _Drop.apply(values, share, new_seed())
    return found


def has_own(values: Tensor) -> bool:
    """Whether dropout of these values is this module's."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def new_seed() -> int:
    """What :func:`dropped` makes its numbers from, by the state of torch's generator."""
    return int(torch.empty((), dtype=torch.int64).random_())


def dropped(values: Tensor, share: float, seed: int) -> Tensor:
    """``values`` with 0 at the places that a seed names and scaled elsewhere, without gradient."""
    units = min(max(round(share * _NUMBERS), 0), _NUMBERS - 1)
    scale = _NUMBERS / (_NUMBERS - units)
    if native_dropout.works_for(values):
        return native_dropout.dropped(values, units, scale, seed)
    random = np.random.SFC64(seed).random_raw(-(-values.numel() // 4)).view(np.int16)
    # -1, all bits, is what is kept, and 0 what is dropped.
    kept = torch.from_numpy(random)[: values.numel()].ge_(units - _NUMBERS // 2).neg_().view(values.shape)
    integers = _INTEGERS[values.element_size()]
    return (values.view(integers) & kept.to(integers)).view(values.dtype).mul_(scale)


class _Drop(torch.autograd.Function):
    """Makes its random numbers again in the backward pass, so that nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float, seed: int) -> Tensor:
        ctx.settings = share, seed
        return dropped(values, share, seed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return dropped(gradient, *ctx.settings), None, None
