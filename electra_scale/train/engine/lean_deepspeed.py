"""DeepSpeed without what it imports and this program never uses.

Its autotuner takes mlflow with it wherever that is installed: more than a second of every rank's start. Whoever needs
a name of DeepSpeed while its own module is imported takes it from here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

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

__all__ = [
    "UNIVERSAL_CHECKPOINT_INFO",
    "UNIVERSAL_CHECKPOINT_VERSION_KEY",
    "UNIVERSAL_CHECKPOINT_VERSION_VALUE",
    "LossScaler",
    "ZeroStageEnum",
    "compiler",
    "deepspeed",
    "default_pg_timeout",
    "fragment_address",
    "get_accelerator",
    "mpi_discovery",
]
