"""Peak arithmetic of a device, which speed/mfu is measured against."""

from __future__ import annotations

import time

import torch

_DENSE_BF16_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "A10": 125.0, "V100": 125.0}
"""Data-sheet peaks, dense, at 16 bit; the first name found in the device's name counts."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s: the data sheet's figure for a known GPU in 16 bit, otherwise the best of a few matrix products."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for known, tflops in _DENSE_BF16_TFLOPS.items():
            if known in name:
                return tflops * 1e12
    size = 1024 if device.type == "cpu" else 4096
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((left @ left)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
