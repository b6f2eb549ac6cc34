"""What is measured of a generator and of the replacements drawn from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from electra_scale.corruption.corruption import Sums


@torch.no_grad()
def generator_statistics(log_probability: Tensor, hits: Tensor, entropy: Tensor) -> dict[str, Tensor]:
    """Sums over the masked positions, (M,) each: log p of the original, whether it was the likeliest, entropy of p."""
    return {
        "generator_cross_entropy": -log_probability.sum(),
        "generator_hits": hits.sum(),
        "generator_entropy": entropy.sum(),
    }


@torch.no_grad()
def staleness_statistics(log_p: Tensor, log_p_at_draw: Tensor | None) -> dict[str, Tensor]:
    """How old the draws are: positions drawn a step ago, and by how much the generator has moved at them since (M,)."""
    if log_p_at_draw is None:
        zero = log_p.new_zeros(())
        return {"stale": zero, "drift": zero}
    return {"stale": log_p.new_tensor(float(len(log_p))), "drift": (log_p - log_p_at_draw).abs().sum()}


@torch.no_grad()
def hardness_statistics(hardness: Tensor, masked_loss: Tensor) -> dict[str, Tensor]:
    """How well the sampler's estimate (M,) ranks the discriminator's losses (M,) of the drawn tokens."""
    return {"rank_correlation": rank_correlation(hardness, masked_loss) * len(masked_loss)}


@torch.no_grad()
def false_negative_statistics(above: Tensor, replaced: Tensor, masked_loss: Tensor) -> dict[str, Tensor]:
    """Counts of replaced draws, and of those that the generator rates ``above`` the original, all (M,).

    The latter are called wrong although they may fit as well. Hard draws, counted apart, are those that the
    discriminator takes for the original: their loss is above log 2.
    """
    hard = replaced & (masked_loss > math.log(2))
    return {
        "replaced_draws": replaced.sum(),
        "false_negatives": (above & replaced).sum(),
        "hard_draws": hard.sum(),
        "hard_false_negatives": (above & hard).sum(),
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


def generator_metrics(sums: Sums) -> dict[str, float]:
    """Metrics of the generator from global sums."""
    masked = max(float(sums["masked"][0]), 1.0)
    return {
        "gen/cross_entropy": float(sums["generator_cross_entropy"][0]) / masked,
        "gen/accuracy": float(sums["generator_hits"][0]) / masked,
        "gen/entropy": float(sums["generator_entropy"][0]) / masked,
    }


def sampler_metrics(sums: Sums) -> dict[str, float]:
    """Metrics of the sampler from global sums of a joint step."""
    masked = max(float(sums["masked"][0]), 1.0)
    return {
        "sampling/staleness": float(sums["stale"][0]) / masked,
        "sampling/staleness_drift": float(sums["drift"][0]) / masked,
        "sampling/hardness_rank_correlation": float(sums["rank_correlation"][0]) / masked,
        "sampling/false_negative_rate": _share(sums, "false_negatives", "replaced_draws"),
        "sampling/false_negative_rate_hard": _share(sums, "hard_false_negatives", "hard_draws"),
    }


def _share(sums: Sums, part: str, whole: str) -> float:
    """0 where there is nothing to be shared."""
    return float(sums[part][0]) / max(float(sums[whole][0]), 1.0)
