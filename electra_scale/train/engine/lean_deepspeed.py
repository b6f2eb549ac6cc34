"""DeepSpeed, and the optimizers of torch, without what they import and this program never uses.

DeepSpeed's autotuner takes mlflow with it wherever that is installed: more than a second of every rank's start. Its
Muon, which no run uses, and torch's optimizers load torch's compiler: another second, and 80 MB. Whoever needs a name
of DeepSpeed while its own module is imported takes it from here.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Adam, Optimizer

from data_pipeline.errors import OneRankError

_UNUSED = ("mlflow",)


@contextmanager
def _not_there(names: tuple[str, ...]) -> Iterator[None]:
    """Inside, importing one of these packages fails as if it were not installed, if it isn't imported already."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        # What Python's import system takes for "raise ImportError".
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _is_no_guess_of_a_device(record: logging.LogRecord) -> bool:
    return record.funcName != "get_accelerator"


# A warning on stdout that no GPU was found: commands that only read print what they read there, and a run says itself
# which device it trains on.
logging.getLogger("DeepSpeed").addFilter(_is_no_guess_of_a_device)

try:
    with _not_there(_UNUSED):
        import deepspeed
        from deepspeed.accelerator import get_accelerator
        from deepspeed.checkpoint.constants import (
            UNIVERSAL_CHECKPOINT_INFO,
            UNIVERSAL_CHECKPOINT_VERSION_KEY,
            UNIVERSAL_CHECKPOINT_VERSION_VALUE,
        )
        from deepspeed.comm.comm import mpi_discovery
        from deepspeed.constants import default_pg_timeout
        from deepspeed.runtime import compiler
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address
except ValueError as error:
    if "DS_ACCELERATOR" not in os.environ:
        raise
    raise OneRankError(
        f"DeepSpeed does not take DS_ACCELERATOR={os.environ['DS_ACCELERATOR']} of the environment "
        f"({str(error).splitlines()[0]}): unset it, or set it to cpu or cuda"
    ) from error


def _update_of(step: Callable[..., Any]) -> Callable[..., Any]:
    """A method ``step`` of an optimizer, in which gradients are recorded only if the optimizer is asked for that."""

    @functools.wraps(step)
    def update(self: Optimizer, *arguments: Any, **options: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *arguments, **options)

    return update


def _leave_compiler_out() -> None:
    """Have nothing load torch's compiler that does not compile; model.compile loads it as ever.

    DeepSpeed decorates its Muon, and imports it whatever optimizer it is given. torch loads its compiler at the first
    call of these methods only to tell it that they are not to be compiled, which nobody asks for here.
    """
    compiler.compile = lambda: compiler.dummy_decorator
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        plain = inspect.unwrap(method)
        # Where torch keeps the method that it has told its compiler of (torch._disable_dynamo).
        setattr(plain, "__dynamo_disable", plain)
    # AdamW's, too, which is an Adam. That a method is assigned to a class of torch's is meant.
    Adam.step = _update_of(inspect.unwrap(Adam.step))  # type: ignore[method-assign]


_leave_compiler_out()

__all__ = [
    "UNIVERSAL_CHECKPOINT_INFO",
    "UNIVERSAL_CHECKPOINT_VERSION_KEY",
    "UNIVERSAL_CHECKPOINT_VERSION_VALUE",
    "LossScaler",
    "ZeroStageEnum",
    "deepspeed",
    "default_pg_timeout",
    "fragment_address",
    "get_accelerator",
    "mpi_discovery",
]
