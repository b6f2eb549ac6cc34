"""Memory that a step on a CPU has freed, kept for the next one."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""

_OF_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
"""Variables by which glibc's malloc is set from outside; GLIBC_TUNABLES is another."""


def keep_freed_memory(environment: Mapping[str, str]) -> bool:
    """Have malloc take large blocks from its heap, and give nothing back to the system; whether it does now.

    Each step takes and frees the same large blocks. By default glibc maps each of more than 32 MiB anew, and the system
    clears its pages one by one as they are touched. What the user has set in ``environment`` stays, and a C library
    without mallopt as it is.
    """
    if any(name in environment for name in _OF_USER) or "glibc.malloc." in environment.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
