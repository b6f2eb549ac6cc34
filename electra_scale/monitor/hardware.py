"""Devices: peak arithmetic, which speed/mfu is measured against, and the data sheets that a plan reads."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

_DENSE_16_BIT_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "A10": 125.0, "V100": 125.0}
"""Data-sheet peaks, dense, at 16 bit; the first name found in the device's name counts."""


@dataclass(frozen=True)
class DeviceSheet:
    """A device as its maker describes it: dense peaks, memory in 10^9 bytes, GB/s to a neighbour in one direction."""

    bf16_tflops: float
    fp32_tflops: float
    memory_gb: float
    link_gbs: float
    link: str


DEVICES = {
    "a100-40": DeviceSheet(_DENSE_16_BIT_TFLOPS["A100"], 19.5, 40.0, 300.0, "NVLink 3"),
    "a100-80": DeviceSheet(_DENSE_16_BIT_TFLOPS["A100"], 19.5, 80.0, 300.0, "NVLink 3"),
    "h100": DeviceSheet(_DENSE_16_BIT_TFLOPS["H100"], 67.0, 80.0, 450.0, "NVLink 4"),
    "h200": DeviceSheet(_DENSE_16_BIT_TFLOPS["H200"], 67.0, 141.0, 450.0, "NVLink 4"),
    "l4": DeviceSheet(121.0, 30.3, 24.0, 32.0, "PCIe 4 x16"),
}
"""Devices that ``electra-scale plan --gpu`` knows, SXM boards where there are several: the maker's nominal figures
without sparsity, fp32 without TF32. Where they were looked up is in docs/plan.md."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s: the data sheet's figure for a known GPU in 16 bit, otherwise the best of a few matrix products."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for known, tflops in _DENSE_16_BIT_TFLOPS.items():
            if known in name:
                return tflops * 1e12
    size = 1024 if device.type == "cpu" else 4096
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float((left @ left)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
