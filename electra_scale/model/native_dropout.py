"""Dropout as native code: native_dropout.c."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from electra_scale.native.library import Unavailable, library

_SOURCE = Path(__file__).with_suffix(".c")
_log = logging.getLogger(__name__)


def works_for(values: Tensor) -> bool:
    """Whether there is native code for values of this precision; if there is none at all, a line says why, once."""
    return values.dtype in (torch.float32, torch.bfloat16) and _functions() is not None


def dropped(values: Tensor, units: int, scale: float, seed: int) -> Tensor:
    """``values`` of any shape, of which each is 0 with probability ``units`` / 65,536 and scaled otherwise."""
    functions = _functions()
    assert functions is not None
    values = values.contiguous()
    out = torch.empty_like(values)
    function = functions.drop_float if values.dtype == torch.float32 else functions.drop_bf16
    function(values.data_ptr(), out.data_ptr(), values.numel(), seed, units, scale)
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
