"""A device's attention over documents that lie end to end, without masks and without padding."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Limits:
    """What attention can be computed for: precisions, and the width D of a head, a multiple of something and at most
    something."""

    dtypes: tuple[torch.dtype, ...]
    multiple: int
    widest: int

    def allow(self, dtype: torch.dtype, width: int, dropout: float) -> bool:
        """Whether heads of this width can be computed; attention dropout never can."""
        return dropout == 0 and dtype in self.dtypes and width % self.multiple == 0 and width <= self.widest


FLASH = Limits((torch.bfloat16, torch.float16), 8, 192)
"""Of the flash kernels; on some devices they have no backward pass for wider heads."""


@dataclass(frozen=True)
class SegmentAttention:
    """Attention over segments that lie end to end.

    ``function`` is called as ``torch.nn.attention.varlen.varlen_attn``: with queries, keys and values (T,heads,D),
    boundaries (N+1,) int32 twice, the longest segment twice, and ``window_size``. It gives the context (T,heads,D).
    """

    function: Callable[..., Any]
    limits: Limits = FLASH


@functools.cache
def segment_attention_of(device: torch.device) -> SegmentAttention | None:
    """What a device has: torch's flash kernels on CUDA from compute capability 8.0 on, elsewhere nothing.

    A torch whose function knows no windows is taken for one without it.
    """
    if device.type != "cuda" or torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    if not torch.backends.cuda.is_flash_attention_available():
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        return None
    return SegmentAttention(varlen_attn)
