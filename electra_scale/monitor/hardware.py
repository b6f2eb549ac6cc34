"""What a run's devices are called and can do: peak FLOP/s for speed/mfu, and the data sheets that a plan reads."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

_DENSE_16_BIT_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "A10": 125.0,
    "V100": 125.0,
}
"""Dense peaks at 16 bit, from data sheets, by a part of the device's name; the first match is used."""


@dataclass(frozen=True)
class DeviceSheet:
    """A device in its maker's figures: dense peaks, memory in 10^9 bytes, GB/s to a neighbour in one direction."""

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
"""The devices of ``electra-scale plan --gpu``, as SXM boards where there are several: the maker's nominal figures
without sparsity, fp32 without TF32. docs/plan.md lists their sources."""


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Peak FLOP/s of a device, and where the figure is from.

    That of its data sheet for a known GPU, whole, in 16 bit; otherwise measured by a few matrix products.
    """
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        known = next((known for known in _DENSE_16_BIT_TFLOPS if known in name), None)
        if known is not None and "MIG" not in name:
            return _DENSE_16_BIT_TFLOPS[known] * 1e12, f"the data sheet of {known}, dense, in 16 bit"
    size = 1024 if device.type == "cpu" else 4096
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float((left @ left)[0, 0])
        best = min(best, time.perf_counter() - started)
    of_what = f"{size:,} x {size:,} in {str(dtype).removeprefix('torch.')}"
    return 2.0 * size**3 / best, f"measured at the start, the quickest of four products of {of_what}"


def device_name(device: torch.device) -> str:
    """What people call a device: a GPU's name, or the processor's with its number of cores."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = platform.machine() or device.type
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                name = value.strip()
                break
    except OSError:
        # Only Linux has the file.
        pass
    return f"{name}, {os.cpu_count()} cores"
