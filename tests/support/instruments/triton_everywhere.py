"""A plugin of pytest that has the kernels of a CUDA device work on a processor's tiles, by Triton's interpreter.

``TRITON_INTERPRET=1 python -m pytest -p tests.support.instruments.triton_everywhere ...``, in a process of its own:
Triton reads the variable as it is imported. Tiles of float64 stay with torch's operations.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from electra_scale.corruption.vocabulary import sweeps, triton_kernels, vocabulary_pass


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def sweeps_of(device: torch.device, dtype: torch.dtype, strip: int) -> sweeps.Sweeps:
        return sweeps.FusedSweeps(strip, triton_kernels) if dtype == torch.float32 else sweeps.TorchSweeps(strip)

    monkeypatch.setattr(vocabulary_pass, "sweeps_of", sweeps_of)
    # The interpreter takes as long for one position as for many, and has one thread.
    monkeypatch.setattr(triton_kernels, "_ROWS", 256)
    monkeypatch.setattr(triton_kernels, "_BLOCK", 128)


@pytest.fixture
def kernels() -> ModuleType:
    """What test_tile_kernels.py is about."""
    return triton_kernels
