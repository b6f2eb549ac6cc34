"""AdamW: parameter groups for the engine, and the updates of replicated parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from electra_scale.optim.parts import Part
from electra_scale.recipe.kinds import method_of
from electra_scale.recipe.optimizer import AdamWSettings


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019), as the DeepSpeed JSON implements it for shared parts."""

    def __init__(self, settings: AdamWSettings) -> None:
        self.settings = settings

    def groups(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Parameter groups of the parts that ranks share; parts that are trained alike are in one.

        ``rate`` scales the schedule's learning rate, of which ``constant`` groups take the peak.
        """
        alike: dict[tuple[float, float, bool, tuple[float, float]], list[nn.Parameter]] = {}
        for part in parts:
            for parameter in part.module.parameters():
                decay = part.weight_decay if parameter.dim() > 1 else 0.0
                alike.setdefault((part.rate, decay, part.constant, part.betas), []).append(parameter)
        groups: list[dict[str, Any]] = []
        for (rate, decay, constant, betas), parameters in alike.items():
            group: dict[str, Any] = {"params": parameters, "weight_decay": decay, "rate": rate}
            # What is as for all stays out, so that the JSON may say it.
            if constant:
                group["constant"] = True
            if betas != tuple(self.settings.betas):
                group["betas"] = betas
            groups.append(group)
        return groups

    def replicated(self, part: Part, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of one part, over its weights in float32. Biases and other vectors are not decayed."""
        groups = [
            {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": part.weight_decay},
            {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], betas=part.betas, eps=part.eps)


def build_optimizer(settings: Any) -> AdamW:
    """The optimizer that the recipe chooses."""
    found: AdamW = method_of("optimizer", settings.kind)(settings)
    return found
