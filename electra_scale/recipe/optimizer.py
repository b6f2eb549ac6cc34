"""Settings of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class OptimizerConfig:
    """AdamW, as the DeepSpeed JSON implements it."""

    learning_rate: float = 5e-4
    """Peak rate."""

    generator_rate: float = 1.0
    """Rate of the generator's layers and head in the joint phase, as a multiple; the embeddings have the full rate."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""

    eps: float = 1e-6
    """Added to the root of the second moment."""

    weight_decay: float = 0.01
    """Decay of weights; LayerNorm and biases have none."""

    clip: float = 1.0
    """Largest norm of the global gradient."""

    most_skipped: int = 20
    """Steps in a row that may be skipped, since a loss or a gradient is not finite, before the run ends."""
