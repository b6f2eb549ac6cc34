"""Sums that add up over micro-batches and ranks, and the metrics that they give."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def auc(histogram_replaced: NDArray[np.float64], histogram_original: NDArray[np.float64]) -> float:
    """Area under the ROC curve from histograms over the same bins; pairs in one bin count a half."""
    positives, negatives = histogram_replaced.sum(), histogram_original.sum()
    if positives == 0 or negatives == 0:
        return math.nan
    below = np.cumsum(histogram_original) - histogram_original
    return float((histogram_replaced * (below + histogram_original / 2)).sum() / (positives * negatives))


def generator_metrics(sums: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Metrics of the generator from global sums."""
    masked = max(float(sums["masked"][0]), 1.0)
    return {
        "loss/generator": float(sums["generator_loss"][0]) / masked,
        "gen/cross_entropy": float(sums["generator_cross_entropy"][0]) / masked,
        "gen/accuracy": float(sums["generator_hits"][0]) / masked,
        "gen/entropy": float(sums["generator_entropy"][0]) / masked,
    }


def joint_metrics(
    sums: dict[str, NDArray[np.float64]], discriminator_weight: float, sampler_weight: float
) -> dict[str, float]:
    """All metrics of a joint step from global sums."""
    value = {name: float(array[0]) for name, array in sums.items() if len(array) == 1}
    masked, tokens = max(value["masked"], 1.0), max(value["tokens"], 1.0)
    metrics = generator_metrics(sums)
    metrics["loss/discriminator"] = value["discriminator_loss"] / tokens
    metrics["loss/sampler"] = value["sampler_loss"] / masked
    metrics["loss/total"] = (
        metrics["loss/generator"]
        + discriminator_weight * metrics["loss/discriminator"]
        + sampler_weight * metrics["loss/sampler"]
    )
    mean = value["weighted_loss"] / masked
    metrics["disc_loss_variance/masked"] = max(value["weighted_loss_squared"] / masked - mean**2, 0.0)
    metrics["sampling/identical_rate"] = value["identical"] / masked
    metrics["sampling/weight_max"] = value["weight_max"]
    metrics["sampling/ess"] = value["weight"] ** 2 / max(value["weight_squared"], 1e-30) / masked
    metrics["sampling/staleness"] = value["stale"] / masked
    metrics["sampling/staleness_drift"] = value["drift"] / masked
    metrics["sampling/hardness_rank_correlation"] = value["rank_correlation"] / masked
    return metrics | detection_metrics(sums)


def detection_metrics(sums: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """AUC, precision and recall of replaced token detection; precision is 0 where nothing was flagged."""
    flagged, replaced, found = (float(sums[name][0]) for name in ("flagged", "replaced", "found"))
    return {
        "disc/auc": auc(sums["histogram_replaced"], sums["histogram_original"]),
        "disc/precision": found / flagged if flagged else 0.0,
        "disc/recall": found / replaced if replaced else 0.0,
    }
