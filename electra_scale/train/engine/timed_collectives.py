"""What DeepSpeed's own collectives take of a process's time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from electra_scale.monitor.stopwatch import Stopwatch
from electra_scale.train.engine.lean_deepspeed import deepspeed

_COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "reduce", "reduce_scatter_tensor", "broadcast")
"""Those by which ZeRO 1 and 2 exchange gradients and weights."""


def time_collectives(stopwatch: Stopwatch) -> None:
    """Count them as exchange from now on; they run inside DeepSpeed's backward pass and update."""
    backend = deepspeed.comm.comm.cdb

    def timed(collective: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(collective)
        def call(*arguments: Any, **options: Any) -> Any:
            with stopwatch.part("exchange"):
                return collective(*arguments, **options)

        return call

    for name in _COLLECTIVES:
        if hasattr(backend, name):
            setattr(backend, name, timed(getattr(backend, name)))
