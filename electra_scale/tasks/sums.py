"""Sums that add up over micro-batches and ranks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AUC_BINS = 2000


_LOGIT_RANGE = 10.0


MAXIMA = ("weight_max",)
"""Statistics that combine by maximum; all others by sum."""


@torch.no_grad()
def generator_statistics(log_probability: Tensor, hits: Tensor, entropy: Tensor) -> dict[str, Tensor]:
    """Sums over the masked positions, (M,) each: log p of the original, whether it was the likeliest, entropy of p."""
    return {
        "generator_cross_entropy": -log_probability.sum(),
        "generator_hits": hits.sum(),
        "generator_entropy": entropy.sum(),
    }


@torch.no_grad()
def joint_statistics(
    masked_loss: Tensor,
    weight: Tensor,
    hardness: Tensor,
    identical: Tensor,
    logits: Tensor,
    replaced: Tensor,
    counted: Tensor,
) -> dict[str, Tensor]:
    """Sums of a joint micro-batch.

    ``masked_loss``, ``weight``, ``hardness``, ``identical``: (M,). ``logits``, ``replaced``: (B, S); ``counted`` (B, S)
    where detection is measured.
    """
    weighted = weight.double() * masked_loss.double()
    statistics = {
        "weighted_loss": weighted.sum(),
        "weighted_loss_squared": weighted.square().sum(),
        "weight": weight.double().sum(),
        "weight_squared": weight.double().square().sum(),
        "weight_max": weight.max() if len(weight) else weight.new_zeros(()),
        "identical": identical.sum(),
        "rank_correlation": rank_correlation(hardness, masked_loss) * len(weight),
    }
    return statistics | detection_statistics(logits, replaced, counted)


@torch.no_grad()
def staleness_statistics(log_p: Tensor, log_p_at_draw: Tensor | None) -> dict[str, Tensor]:
    """How old the draws are: positions drawn a step ago, and by how much the generator has moved at them since (M,)."""
    if log_p_at_draw is None:
        zero = log_p.new_zeros(())
        return {"stale": zero, "drift": zero}
    return {"stale": log_p.new_tensor(float(len(log_p))), "drift": (log_p - log_p_at_draw).abs().sum()}


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


def rank_correlation(left: Tensor, right: Tensor) -> Tensor:
    """Spearman's correlation of two vectors (M,); 0 where either is constant. Ties share their mean rank."""
    if len(left) < 2:
        return torch.zeros((), device=left.device)
    a, b = _ranks(left), _ranks(right)
    a, b = a - a.mean(), b - b.mean()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return torch.where(scale > 0, (a * b).sum() / scale.clamp(min=1e-30), torch.zeros_like(scale)).float()


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return (last.double() - (counts.double() - 1) / 2)[inverse]


class Flattener:
    """Packs a dictionary of statistics into one float64 vector and back, so that one collective carries them all."""

    def __init__(self, statistics: dict[str, Tensor]) -> None:
        self.names = sorted(statistics)
        self.sizes = [statistics[name].numel() for name in self.names]
        self.maxima = [name in MAXIMA for name in self.names]

    def pack(self, statistics: dict[str, Tensor]) -> Tensor:
        """(N,) float64 on the statistics' device."""
        return torch.cat([statistics[name].reshape(-1).double() for name in self.names])

    def maximum_mask(self, device: torch.device) -> Tensor:
        """(N,) bool: entries that combine by maximum."""
        flags = [flag for flag, size in zip(self.maxima, self.sizes, strict=True) for _ in range(size)]
        return torch.tensor(flags, device=device)

    def unpack(self, vector: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The statistics again, arrays of their sizes."""
        parts = np.split(vector, np.cumsum(self.sizes)[:-1])
        return dict(zip(self.names, parts, strict=True))


def combine(into: Tensor | None, vector: Tensor, maximum: Tensor) -> Tensor:
    """Add a packed vector to another; entries under ``maximum`` take the larger value."""
    if into is None:
        return vector
    return torch.where(maximum, torch.maximum(into, vector), into + vector)
