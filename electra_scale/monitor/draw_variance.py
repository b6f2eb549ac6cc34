"""How much the discriminator's loss and gradient vary with the draw alone: redrawn replacements in, figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from electra_scale.corruption.statistics import rank_correlation

Floats = NDArray[np.float64]

GRADIENT_PARTS = ("head", "last layer")
"""Parts of the discriminator whose gradient is measured."""

FREQUENCY_BUCKETS = 5


@dataclass
class Redrawn:
    """K draws from p and K from q at the same T masked positions of N samples, weights fixed.

    ``sample`` (T,) the sample of a position, ``original`` (T,) its token; ``loss_p``, ``loss_q`` (T, K) the
    discriminator's loss l at the drawn token; ``kept_p``, ``kept_q`` (T, K) whether the draw is the original;
    ``weight`` (T, K) the weight w of a draw from q, as training uses it; ``hardness`` (T, K) its q/p;
    ``gradient_p``, ``gradient_q`` (N, parts) variance over draws of the sample's part of the gradient of L_D times
    ``tokens``, the non-padding tokens of all samples.
    """

    sample: NDArray[np.int64]
    original: NDArray[np.int64]
    loss_p: Floats
    loss_q: Floats
    kept_p: NDArray[np.bool_]
    kept_q: NDArray[np.bool_]
    weight: Floats
    hardness: Floats
    gradient_p: Floats
    gradient_q: Floats
    tokens: int


def draw_figures(redrawn: Redrawn) -> dict[str, float]:
    """The figures over all positions together (method.md, section 9a).

    Variances are unbiased (K - 1). Draws of different samples are independent given the inputs, so variances of sums
    over samples are sums of each sample's variance. Errors are standard errors: those of ratios over samples (the
    linear term of the jackknife over samples), that of the difference of means over draws. Undefined figures are NaN.
    """
    samples, draws = len(redrawn.gradient_p), redrawn.loss_p.shape[1]
    positions = len(redrawn.sample)
    weighted = redrawn.weight * redrawn.loss_q
    variance_p, variance_q = (_by_sample(_variance(x), redrawn.sample, samples) for x in (redrawn.loss_p, weighted))
    sums_p, sums_q = (_by_sample(x, redrawn.sample, samples) for x in (redrawn.loss_p, weighted))
    mean_p, mean_q = (float(_variance(x).sum()) / positions**2 for x in (sums_p, sums_q))
    ratio, ratio_error = ratio_of_sums(variance_q, variance_p)
    figures = {
        "samples": float(samples),
        "positions": float(positions),
        "draws": float(draws),
        "draw_p": float(variance_p.sum()) / positions,
        "draw_q": float(variance_q.sum()) / positions,
        "draw_ratio": ratio,
        "draw_ratio_error": ratio_error,
        "batch_mean_p": mean_p,
        "batch_mean_q": mean_q,
        "batch_mean_ratio": mean_q / mean_p if mean_p > 0 else math.nan,
    }
    parts = {"": slice(None)} | {f" {name}": slice(n, n + 1) for n, name in enumerate(GRADIENT_PARTS)}
    for name, part in parts.items():
        gradient_p, gradient_q = redrawn.gradient_p[:, part].sum(1), redrawn.gradient_q[:, part].sum(1)
        ratio, ratio_error = ratio_of_sums(gradient_q, gradient_p)
        figures[f"gradient_p{name}"] = float(gradient_p.sum()) / redrawn.tokens**2
        figures[f"gradient_q{name}"] = float(gradient_q.sum()) / redrawn.tokens**2
        figures[f"gradient_ratio{name}"] = ratio
        figures[f"gradient_ratio_error{name}"] = ratio_error
    # Rounded, so that a token that is drawn twice ties with itself in spite of numerical noise.
    hardness, loss = redrawn.hardness.round(4), redrawn.loss_q.round(4)
    return figures | {
        "ess": float(redrawn.weight.sum() ** 2 / (redrawn.weight.size * np.square(redrawn.weight).sum())),
        "weight_max": float(redrawn.weight.max()),
        "mean_loss_p": float(redrawn.loss_p.mean()),
        "mean_weighted_loss_q": float(weighted.mean()),
        "mean_difference": float((weighted - redrawn.loss_p).mean()),
        "mean_difference_error": math.sqrt(float(_variance(sums_q - sums_p).sum()) / draws) / positions,
        "identical_p": float(redrawn.kept_p.mean()),
        "identical_q": float(redrawn.kept_q.mean()),
        "hardness_rank_correlation_within": within_rank_correlation(hardness, loss),
        "hardness_rank_correlation_pooled": float(
            rank_correlation(torch.from_numpy(hardness).flatten(), torch.from_numpy(loss).flatten())
        ),
    }


def probe_metrics(redrawn: Redrawn) -> dict[str, float]:
    """The figures that a run logs, by tag."""
    figures = draw_figures(redrawn)
    return {
        "disc_loss_variance/draw_p": figures["draw_p"],
        "disc_loss_variance/draw_q": figures["draw_q"],
        "disc_loss_variance/draw_ratio": figures["draw_ratio"],
        "disc_gradient_variance/draw_p": figures["gradient_p"],
        "disc_gradient_variance/draw_q": figures["gradient_q"],
        "disc_gradient_variance/draw_ratio": figures["gradient_ratio"],
        "sampling/hardness_rank_correlation_within": figures["hardness_rank_correlation_within"],
    }


def frequency_buckets(counts: NDArray[np.int64], number: int = FREQUENCY_BUCKETS) -> NDArray[np.int64]:
    """Bucket (V,) of each token, 0 the most frequent, from counts (V,): each has about the same share of the text."""
    order = np.argsort(-counts, kind="stable")
    ordered = counts[order].astype(np.float64)
    middle = (ordered.cumsum() - ordered / 2) / max(float(ordered.sum()), 1.0)
    buckets = np.empty(len(counts), dtype=np.int64)
    buckets[order] = np.minimum(middle * number, number - 1).astype(np.int64)
    return buckets


def bucket_figures(redrawn: Redrawn, counts: NDArray[np.int64]) -> list[dict[str, float]]:
    """The figures by how frequent the original token is in the training text, given token counts (V,).

    One entry for each bucket that has positions, the one of the most frequent tokens first.
    """
    bucket_of = frequency_buckets(counts)
    bucket = bucket_of[redrawn.original]
    found = []
    for number in np.unique(bucket):
        here = bucket == number
        sizes = counts[bucket_of == number]
        bounds = {"least_count": float(sizes.min()), "most_count": float(sizes.max())}
        found.append({"bucket": float(number + 1), **bounds, **_figures_of(redrawn, here)})
    return found


def source_figures(redrawn: Redrawn, sources: Sequence[str]) -> dict[str, dict[str, float]]:
    """The figures by source, given that of each sample (N,); of sources without a masked position there are none."""
    of_position = np.array(sources)[redrawn.sample]
    return {str(source): _figures_of(redrawn, of_position == source) for source in np.unique(of_position)}


def _figures_of(redrawn: Redrawn, here: NDArray[np.bool_]) -> dict[str, float]:
    """The figures of some of the positions (T,)."""
    draw_p = float(_variance(redrawn.loss_p[here]).mean())
    draw_q = float(_variance((redrawn.weight * redrawn.loss_q)[here]).mean())
    return {
        "positions": float(here.sum()),
        "draw_p": draw_p,
        "draw_q": draw_q,
        "draw_ratio": draw_q / draw_p if draw_p > 0 else math.nan,
        "identical_p": float(redrawn.kept_p[here].mean()),
        "identical_q": float(redrawn.kept_q[here].mean()),
        "mean_loss_p": float(redrawn.loss_p[here].mean()),
        "mean_loss_q": float(redrawn.loss_q[here].mean()),
    }


def within_rank_correlation(left: Floats, right: Floats) -> float:
    """Spearman's correlation along each row of (T, K), averaged over the rows in which both vary; NaN if none does."""
    varies = (np.ptp(left, axis=1) > 0) & (np.ptp(right, axis=1) > 0)
    pairs = zip(torch.from_numpy(left[varies]), torch.from_numpy(right[varies]), strict=True)
    correlations = [float(rank_correlation(a, b)) for a, b in pairs]
    return sum(correlations) / len(correlations) if correlations else math.nan


def _variance(values: Floats) -> Floats:
    """Unbiased variance over draws: (..., K) to (...)."""
    found: Floats = values.var(-1, ddof=1, dtype=np.float64)
    return found


def _by_sample(values: Floats, sample: NDArray[np.int64], samples: int) -> Floats:
    """Sum over the positions of each sample: (T, ...) to (N, ...)."""
    sums = np.zeros((samples, *values.shape[1:]))
    np.add.at(sums, sample, values)
    return sums


def ratio_of_sums(above: Floats, below: Floats) -> tuple[float, float]:
    """Ratio of two sums over samples, (N,) each, and its standard error."""
    total = float(below.sum())
    if total <= 0:
        return math.nan, math.nan
    ratio = float(above.sum()) / total
    if len(below) < 2:
        return ratio, math.nan
    residual = above - ratio * below
    return ratio, math.sqrt(float(np.square(residual).sum()) * len(below) / (len(below) - 1)) / total
