"""Replacement sampling: which token the discriminator gets to see at a masked position, and with what weight."""

from electra_scale.replacement.base import Draw, Masked, Sampler
from electra_scale.replacement.build import build_sampler
from electra_scale.replacement.config import ObjectiveConfig, SamplingHeadConfig
from electra_scale.replacement.generator_loss import focal_loss

__all__ = [
    "Draw",
    "Masked",
    "ObjectiveConfig",
    "Sampler",
    "SamplingHeadConfig",
    "build_sampler",
    "focal_loss",
]
