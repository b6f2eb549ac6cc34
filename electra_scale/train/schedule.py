"""Learning rate as a pure function of the step."""

from __future__ import annotations


def joint_rate(step: int, peak: float, steps: int, warmup: int) -> float:
    """Linear decay to zero, times linear warm-up, both acting from the start, as in ELECTRA. ``step`` counts from 0."""
    return peak * (1 - step / steps) * min(1.0, (step + 1) / max(warmup, 1))


def generator_warmup_rate(step: int, peak: float, steps: int, warmup: int) -> float:
    """Linear warm-up, then linear decay to a tenth of the peak, since the joint phase goes on from there."""
    return peak * (1 - 0.9 * step / steps) * min(1.0, (step + 1) / max(warmup, 1))
