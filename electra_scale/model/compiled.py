"""Parts of layers as torch.compile makes them: for one shape each, without Python in between."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError

BACKEND = "inductor"
"""Who makes code of what torch.compile records."""


def stage(function: Callable[..., Any], compiles: bool, given: Tensor) -> Callable[..., Any]:
    """``function``, compiled if ``compiles``, for arguments on the device of ``given``.

    It is compiled once for all layers of the same sizes, at the first call. Weights are not touched: a module has the
    same parameters under the same names with and without it. Raises UserError where the device's compiler is missing.
    """
    if not compiles:
        return function
    if BACKEND == "inductor":
        _require_compiler(given.device.type)
    return _compiled(function, BACKEND)


@functools.cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    found: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)
    return found


@functools.cache
def _require_compiler(device_type: str) -> None:
    """A line in place of the pages that inductor writes."""
    advice = "or set model.compile to false"
    if device_type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise UserError(
                f"model.compile needs a C++ compiler (CXX, or g++), and none works; install g++, {advice}"
            ) from error
        return
    from torch.utils._triton import has_triton

    if not has_triton():
        raise UserError(f"model.compile needs Triton for this GPU, and none works; install triton, {advice}")
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        # Triton compiles the code that starts its kernels.
        raise UserError(f"model.compile needs a C compiler (cc, gcc, clang), and there is none; install gcc, {advice}")
