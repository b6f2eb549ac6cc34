"""A recipe's DeepSpeed JSON: reading it, and filling what it leaves to the recipe. Does not import DeepSpeed."""

from __future__ import annotations

import json
from typing import Any

from data_pipeline.errors import UserError
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.recipe.shipped import find_deepspeed_json


def read_deepspeed_json(path: str) -> dict[str, Any]:
    """The DeepSpeed JSON of a recipe; raises UserError if it is missing, broken or asks for what can't work here."""
    try:
        content = json.loads(find_deepspeed_json(path).read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"DeepSpeed JSON {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"DeepSpeed JSON {path} must be an object, it is a {type(content).__name__}")
    stage = content.get("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2):
        raise UserError(f"DeepSpeed JSON {path}: zero_optimization.stage is {stage}; electra-scale runs stages 1 and 2")
    if content.get("fp16", {}).get("enabled"):
        raise UserError(f"DeepSpeed JSON {path}: fp16 is not supported; enable bf16, or neither for fp32")
    return content


def resolve_deepspeed_json(
    content: dict[str, Any],
    optimizer: AdamWSettings,
    learning_rate: float,
    micro_batch: int,
    accumulation: int,
    ranks: int,
) -> dict[str, Any]:
    """Fill every ``"auto"`` from the recipe.

    Raises UserError for an "auto" that no setting decides, and for a batch size that contradicts the recipe.
    """
    values: dict[str, Any] = {
        "train_batch_size": micro_batch * accumulation * ranks,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.clip,
        "optimizer.params.lr": learning_rate,
        "optimizer.params.betas": list(optimizer.betas),
        "optimizer.params.eps": optimizer.eps,
        "optimizer.params.weight_decay": optimizer.weight_decay,
    }

    def fill(value: Any, where: str) -> Any:
        if isinstance(value, dict):
            return {key: fill(item, f"{where}.{key}" if where else key) for key, item in value.items()}
        if value != "auto":
            return value
        if where not in values:
            raise UserError(f'DeepSpeed JSON: {where} is "auto", but no setting of the recipe decides it; give a value')
        return values[where]

    resolved: dict[str, Any] = fill(content, "")
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        if resolved.setdefault(key, values[key]) != values[key]:
            raise UserError(
                f"DeepSpeed JSON: {key} is {resolved[key]}, the recipe and {ranks} ranks give {values[key]}; "
                'write "auto"'
            )
    return resolved
