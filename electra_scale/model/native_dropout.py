"""Dropout as native code: what is dropped is made again in the backward pass, so nothing is kept for it."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from electra_scale.native.library import Unavailable, library

_SOURCE = Path(__file__).with_suffix(".c")
_log = logging.getLogger(__name__)


def works_for(values: Tensor) -> bool:
    """Whether there is native code for values of this precision; if there is none at all, a line says why, once."""
    return values.dtype in (torch.float32, torch.bfloat16) and _functions() is not None


def drop(values: Tensor, dropped: int, scale: float) -> Tensor:
    """``values`` of any shape, of which each is 0 with probability ``dropped`` / 65,536 and scaled otherwise.

    The seed comes from torch's generator.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    found: Tensor = _Drop.apply(values, seed, dropped, scale)
    return found


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, seed: int, dropped: int, scale: float) -> Tensor:
        ctx.settings = seed, dropped, scale
        return _dropped(values, seed, dropped, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _dropped(gradient, *ctx.settings), None, None, None


def _dropped(values: Tensor, seed: int, dropped: int, scale: float) -> Tensor:
    functions = _functions()
    assert functions is not None
    values = values.contiguous()
    out = torch.empty_like(values)
    function = functions.drop_float if values.dtype == torch.float32 else functions.drop_bf16
    function(values.data_ptr(), out.data_ptr(), values.numel(), seed, dropped, scale)
    return out


@cache
def _functions() -> ctypes.CDLL | None:
    try:
        found = library(_SOURCE)
    except Unavailable as reason:
        _log.warning(
            "dropout takes numpy's random numbers, which are slower: native code: %s; "
            "install a C compiler (gcc), or name one in CC",
            reason,
        )
        return None
    for function in (found.drop_float, found.drop_bf16):
        function.argtypes = [ctypes.c_void_p] * 2
        function.argtypes += [ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_float]
        function.restype = None
    return found
