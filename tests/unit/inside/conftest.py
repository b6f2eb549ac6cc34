"""A small vocabulary, and networks with rough weights over it, in place of a run's checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from data_pipeline.tokenize.tokenizer import wordpiece_tokenizer
from electra_scale.corruption.corruption import Corruption, Corruptor
from electra_scale.corruption.random import RandomSettings
from electra_scale.data.rows import SpecialTokens
from electra_scale.inside.inside import Inside
from electra_scale.inside.run import OpenedRun
from electra_scale.recipe.corruption import CorruptionSettings, GeneratorSettings, SamplingHeadSettings
from electra_scale.recipe.data import DataConfig
from electra_scale.recipe.model import BertSettings, EncoderSize, ModelSection
from electra_scale.recipe.recipe import Recipe
from electra_scale.tasks.module import build_module
from electra_scale.train.checkpoint.state import RunState

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *SPECIAL,
    *["the", "a", "cat", "dog", "mouse", "man", "sat", "ran", "slept", "on", "under", "mat", "roof", ".", ",", "##s"],
]
VOCABULARY = {word: index for index, word in enumerate(WORDS)}
LONGEST = 12
SIZES: dict[str, Any] = {
    "embedding": 12,
    "discriminator": EncoderSize(2, 16, 24, 4),
    "generator": EncoderSize(2, 8, 16, 2),
    "max_positions": 16,
}
SAMPLERS: dict[str, GeneratorSettings] = {
    name: GeneratorSettings(sampler=name, head=SamplingHeadSettings(width=6))
    for name in ("electra", "temperature", "hp_loss", "hp_dist", "two_scalars")
}


def open_inside(
    corruption: CorruptionSettings, step: int = 40, rough: float = 0.25, architecture: Any = None
) -> Inside:
    """A run of ``step`` steps with this corruption, whose weights are far from their start."""
    recipe = Recipe(
        data=DataConfig(sequence_length=LONGEST, mask_share=0.25),
        model=ModelSection(**SIZES),
        architecture=architecture or BertSettings(),
        corruption=corruption,
    )
    module = build_module(recipe, recipe.networks(len(WORDS)), SpecialTokens(pad=0, cls=2, sep=3, mask=4), "joint")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(rough * torch.randn(parameter.shape, generator=generator))
    state = RunState(step, "joint", 1, "none", {"epoch": 0})
    return Inside(OpenedRun("runs/test", recipe, state, module, wordpiece_tokenizer(VOCABULARY, True)))


class WithoutDistributions(Corruptor):
    """Another corruption's draws by a strategy that says nothing of how they are made."""

    def __init__(self, drawing: Corruptor) -> None:
        self.drawing = drawing

    def corrupt(self, *arguments: Any, **settings: Any) -> Corruption:
        return self.drawing.corrupt(*arguments, **settings)


def without_distributions() -> Inside:
    """A run whose corruption is of a kind that draws from no distribution."""
    inside = open_inside(RandomSettings())
    assert isinstance(inside.opened, OpenedRun)
    inside.opened.module.corruptor = WithoutDistributions(inside.opened.module.corruptor)
    return inside


@pytest.fixture(scope="session")
def hard() -> Inside:
    """A run with hp_loss."""
    return open_inside(SAMPLERS["hp_loss"])
