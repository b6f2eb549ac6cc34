"""What is measured of the detection of replaced tokens, and of the loss at the positions where they were drawn."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electra_scale.corruption.corruption import Sums

MAXIMA = ("weight_max",)
"""Statistics that are combined by maximum."""

LISTS = ("logits_original", "logits_replaced")
"""Those of which every value is kept; all others are combined by sum."""


@torch.no_grad()
def weighted_loss_statistics(masked_loss: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """What every step needs of the losses (M,) at masked positions and their weights (M,)."""
    return {"weighted_loss": (weight.double() * masked_loss.double()).sum()}


@torch.no_grad()
def draw_statistics(masked_loss: Tensor, weight: Tensor, identical: Tensor) -> dict[str, Tensor]:
    """Sums over masked positions, (M,) each: losses, weights, and whether the drawn token is the original."""
    weighted = weight.double() * masked_loss.double()
    return {
        "weighted_loss_squared": weighted.square().sum(),
        "weight": weight.double().sum(),
        "weight_squared": weight.double().square().sum(),
        "weight_max": weight.max() if len(weight) else weight.new_zeros(()),
        "identical": identical.sum(),
    }


@torch.no_grad()
def detection_statistics(logits: Tensor, replaced: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """The logits themselves by label, and the counts behind precision and recall. All (B, S)."""
    flagged = (logits > 0) & counted
    return {
        "logits_original": logits[counted & ~replaced],
        "logits_replaced": logits[counted & replaced],
        "flagged": flagged.sum(),
        "replaced": (replaced & counted).sum(),
        "found": (flagged & replaced).sum(),
    }


def auc(replaced: NDArray[np.floating], original: NDArray[np.floating]) -> float:
    """Area under the ROC curve from the logits of replaced (n,) and original (m,) tokens, exact; ties count a half.

    NaN where there are none of a kind, or a logit is not a number.
    """
    if not len(replaced) or not len(original) or np.isnan(replaced).any() or np.isnan(original).any():
        return math.nan
    ordered = np.sort(original)
    below, up_to = (np.searchsorted(ordered, replaced, side=side).sum(dtype=np.float64) for side in ("left", "right"))
    return float((below + up_to) / 2 / len(replaced) / len(original))


def draw_metrics(sums: Sums) -> dict[str, float]:
    """Metrics of what was drawn from global sums: the variance of the weighted loss, and what the weights do."""
    value = {name: float(array[0]) for name, array in sums.items() if len(array) == 1}
    masked = max(value["masked"], 1.0)
    mean = value["weighted_loss"] / masked
    return {
        "disc_loss_variance/masked": max(value["weighted_loss_squared"] / masked - mean**2, 0.0),
        "sampling/identical_rate": value["identical"] / masked,
        "sampling/weight_max": value["weight_max"],
        "sampling/ess": value["weight"] ** 2 / max(value["weight_squared"], 1e-30) / masked,
    }


def detection_metrics(sums: Sums) -> dict[str, float]:
    """AUC, precision and recall of replaced token detection; precision is 0 where nothing was flagged."""
    flagged, replaced, found = (float(sums[name][0]) for name in ("flagged", "replaced", "found"))
    return {
        "disc/auc": auc(sums["logits_replaced"], sums["logits_original"]),
        "disc/precision": found / flagged if flagged else 0.0,
        "disc/recall": found / replaced if replaced else 0.0,
    }
