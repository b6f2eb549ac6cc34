"""Large blocks are taken from malloc's heap again and again, without faults, unless the user has set malloc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from electra_scale.train.engine.freed_memory import keep_freed_memory

PROGRAM = """
import ctypes, os, resource
from electra_scale.train.engine.freed_memory import keep_freed_memory

C, size = ctypes.CDLL(None), 64 << 20
C.malloc.restype, C.malloc.argtypes, C.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = C.malloc(size)
    ctypes.memset(block, 1, size)
    C.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), faults(), keep_freed_memory({}), faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_freed_block_is_taken_again_without_page_faults() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    _, mapped_again, kept, _, taken_again = result.stdout.split()
    assert kept == "True"
    assert int(taken_again) < int(mapped_again) / 4


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}]
)
def test_what_the_user_has_set_for_malloc_stays(environment: dict[str, str]) -> None:
    assert keep_freed_memory(environment) is False
