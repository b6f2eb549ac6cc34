"""What is measured of the detection of replaced tokens, and of the loss at the positions where they were drawn."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from electra_scale.corruption.corruption import Sums

AUC_BINS = 2000
_LOGIT_RANGE = 10.0

MAXIMA = ("weight_max",)
"""Statistics that are combined by maximum; all others by sum."""


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
    """Histograms of the logits by label, (AUC_BINS,) each, and the counts behind precision and recall. All (B, S)."""
    clamped = logits.clamp(-_LOGIT_RANGE, _LOGIT_RANGE)
    bins = ((clamped + _LOGIT_RANGE) * (AUC_BINS / (2 * _LOGIT_RANGE))).long().clamp(0, AUC_BINS - 1)
    bins = torch.where(counted, bins + AUC_BINS * replaced, 2 * AUC_BINS).flatten()
    histogram = torch.zeros(2 * AUC_BINS + 1, device=logits.device)
    histogram.scatter_add_(0, bins, torch.ones_like(bins, dtype=histogram.dtype))
    flagged = (logits > 0) & counted
    return {
        "histogram_original": histogram[:AUC_BINS],
        "histogram_replaced": histogram[AUC_BINS : 2 * AUC_BINS],
        "flagged": flagged.sum(),
        "replaced": (replaced & counted).sum(),
        "found": (flagged & replaced).sum(),
    }


def auc(histogram_replaced: NDArray[np.float64], histogram_original: NDArray[np.float64]) -> float:
    """Area under the ROC curve from histograms over the same bins; pairs in one bin count a half."""
    positives, negatives = histogram_replaced.sum(), histogram_original.sum()
    if positives == 0 or negatives == 0:
        return math.nan
    below = np.cumsum(histogram_original) - histogram_original
    return float((histogram_replaced * (below + histogram_original / 2)).sum() / (positives * negatives))


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
        "disc/auc": auc(sums["histogram_replaced"], sums["histogram_original"]),
        "disc/precision": found / flagged if flagged else 0.0,
        "disc/recall": found / replaced if replaced else 0.0,
    }
