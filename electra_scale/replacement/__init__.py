"""Replacement sampling: which token the discriminator gets to see at a masked position, and with what weight."""

from electra_scale.replacement.ahead import Ahead
from electra_scale.replacement.base import Draw, Masked, Sampler
from electra_scale.replacement.build import build_sampler
from electra_scale.replacement.config import ObjectiveConfig, SamplingHeadConfig
from electra_scale.replacement.vocabulary import VocabularyPass, propose, vocabulary_pass

__all__ = [
    "Ahead",
    "Draw",
    "Masked",
    "ObjectiveConfig",
    "Sampler",
    "SamplingHeadConfig",
    "VocabularyPass",
    "build_sampler",
    "propose",
    "vocabulary_pass",
]
