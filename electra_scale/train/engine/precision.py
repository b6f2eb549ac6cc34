"""Precision of the matrix products: what a DeepSpeed JSON asks for, and what a device has instructions for."""

from __future__ import annotations

from typing import Any

import torch

from electra_scale.model.attention.dot_product import processor_has_bf16
from electra_scale.train.engine.lean_deepspeed import get_accelerator


def precision_of(deepspeed_json: dict[str, Any]) -> torch.dtype:
    """Precision of the matrix products."""
    if deepspeed_json.get("bf16", {}).get("enabled"):
        return torch.bfloat16
    return torch.float32


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bf16 by itself; emulated, it takes many times as long as fp32."""
    if device.type == "cpu":
        return processor_has_bf16()
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(get_accelerator().is_bf16_supported())
