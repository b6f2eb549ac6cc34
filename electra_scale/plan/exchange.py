"""What ranks exchange in a step under ZeRO 1 and 2, as DeepSpeed 0.19.8 does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from electra_scale.plan.trained import TrainedCounts


@dataclass(frozen=True)
class Exchange:
    """Bytes of one step, as collectives are given them: ``reduced`` by all-reduces, ``gathered`` in the end."""

    reduced: float
    gathered: float


def rounds_of(stage: int, accumulation: int) -> int:
    """How often all gradients are reduced in a step: ZeRO-2 does so after each micro-batch, ZeRO-1 after the last."""
    return accumulation if stage == 2 else 1


def exchange_of(trained: TrainedCounts, deepspeed_json: dict[str, Any], accumulation: int) -> Exchange:
    """What a step of ``accumulation`` micro-batches exchanges for the parameters that it trains.

    Gradients are summed by all-reduces even where each rank keeps its part of the sum only. Those of replicated parts
    are summed once, in float32, and their weights are not gathered.
    """
    element = 2 if deepspeed_json.get("bf16", {}).get("enabled") else 4
    stage = int(deepspeed_json.get("zero_optimization", {}).get("stage", 2))
    sent = {"fp32": 4, "bf16": 2, "fp16": 2}.get(deepspeed_json.get("communication_data_type", ""), element)
    reduced = trained.shared * sent * rounds_of(stage, accumulation) + 4 * (trained.replicated + trained.head)
    return Exchange(float(reduced), float(trained.shared * element))
